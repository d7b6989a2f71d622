"""Building images in tests, and running commands that must succeed."""

import subprocess
import sys
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[2]
CONTAINERS = PROJECT / "containers"


def succeed(*command: str | Path) -> str:
    """What a command printed; its failure is the test's."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def built(name: str, base: str) -> str:
    """An image as `make images` builds it, by the name that environment `test` gives it."""
    succeed(sys.executable, CONTAINERS / "build.py", name, "--env", "test", "--base-image", base, "--wheels")
    environment = yaml.safe_load((PROJECT / "configs" / "environments" / "test.yaml").read_text(encoding="utf-8"))
    return f"{environment['image_registry']}/{name}:{environment['image_tag']}"
