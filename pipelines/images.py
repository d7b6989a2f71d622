"""The container images: which there are, and the source that one was built from."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from components.shared.contracts.records import content_id
from components.shared.storage.artifacts import file_digest
from components.shared.storage.paths import PROJECT

IMAGES = ("data", "training", "serving")
"""One folder of containers/ each."""
SOURCE_LABEL = "srl-rlvr.source"
"""Label of an image: `source_digest` of the checkout that it was built from."""
FILES = ("pyproject.toml", "requirements.lock")
FOLDERS = ("components", "configs")
LEFT_OUT = {"__pycache__", "models"}
"""As .dockerignore leaves them out: base policies are inputs, and no part of an image."""


def revision() -> str | None:
    """The commit that the checkout is at; none where it is no checkout."""
    try:
        found = subprocess.run(["git", "-C", str(PROJECT), "rev-parse", "HEAD"], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None


def source_digest() -> str:
    """SHA-256 of what goes into an image: the stages' code, the configurations, and the pinned requirements."""
    return content_id({path.relative_to(PROJECT).as_posix(): file_digest(path) for path in source_files()})


def source_files() -> Iterator[Path]:
    yield from (PROJECT / name for name in FILES)
    for folder in FOLDERS:
        for path in sorted((PROJECT / folder).rglob("*")):
            if path.is_file() and not LEFT_OUT & set(path.relative_to(PROJECT).parts):
                yield path
