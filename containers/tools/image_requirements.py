"""What an image installs, as pip reads it: what stages need of the project's core, and the extras of its kind.

python containers/tools/image_requirements.py data > requirements.txt
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

EXTRAS = {
    "data": ("data", "tracking", "aws"),
    "training": ("data", "train", "aws"),
    "serving": ("data", "serve", "aws"),
}
"""The project's extras by image."""
AUTHORING = {"click", "kfp", "kfp-kubernetes", "rich"}
"""Of the core, what only writes and runs DAGs: an image runs one stage."""
SLIMMER = {"mlflow": ("mlflow-skinny{}", "alembic", "sqlalchemy", "sqlparse")}
"""MLflow's client with its SQL store has all that a stage calls; the rest (server, flavours) is 500 MB."""


def requirements(project: dict, image: str) -> Iterator[str]:
    """The requirements of an image. Raises KeyError for an image or an extra that is not one."""
    extras = project["optional-dependencies"]
    for line in [*project["dependencies"], *(line for extra in EXTRAS[image] for line in extras[extra])]:
        name, version = re.fullmatch(r"([\w.-]+)(.*)", line).groups()
        if name not in AUTHORING:
            yield from (found.format(version) for found in SLIMMER.get(name, (line,)))


def main() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    print("\n".join(requirements(project, sys.argv[1])))


if __name__ == "__main__":
    main()
