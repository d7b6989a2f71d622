"""Run Terraform without AWS: every command under it finds a provider that knows the AWS provider's schema.

    .venv-infrastructure/bin/python infrastructure/tools/offline.py terraform -chdir=FOLDER validate

With no command it serves until its standard input closes, and prints the environment to use as one line of JSON.
infrastructure/tools/install.sh puts what it needs into .venv-infrastructure.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from provider_schema import read_schema
from provider_server import serving

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / ".venv-infrastructure" / "share"
TYPE = re.compile(r'^\s*(resource|data) "(aws_\w+)"', re.M)


def used_types(root: Path) -> set[str]:
    """Every resource and data source that the configuration under `root` names."""
    texts = [path.read_text() for path in root.rglob("*.tf")]
    found = [match for text in texts for match in TYPE.findall(text)]
    return {f"data.{name}" if kind == "data" else name for kind, name in found}


def cached_schema(types: set[str]) -> dict:
    """The schemas of `types`, read from the bindings' wheel once."""
    wheel = next(CACHE.glob("cdktn_provider_aws-*.whl"), None)
    if wheel is None:
        sys.exit(f"the AWS provider's bindings are not in {CACHE}: run infrastructure/tools/install.sh")
    reader = Path(__file__).with_name("provider_schema.py").read_text()
    key = hashlib.sha256("\n".join([wheel.name, reader, *sorted(types)]).encode()).hexdigest()[:12]
    file = CACHE / f"schema-{key}.json"
    if not file.exists():
        whole = file.with_suffix(f".{os.getpid()}")
        whole.write_text(json.dumps(read_schema(wheel, types)))
        whole.replace(file)
    return json.loads(file.read_text())


def main(command: list[str]) -> int:
    schema = cached_schema(used_types(PROJECT / "infrastructure" / "terraform"))
    with serving(schema) as environment:
        if command:
            return subprocess.run(command, env=os.environ | environment, check=False).returncode
        print(json.dumps({"environment": environment, "version": schema["version"]}), flush=True)
        sys.stdin.read()
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
