"""Building images in tests, and running commands that must succeed."""

import subprocess
import sys
from pathlib import Path

from pipelines.configuration import load_settings
from pipelines.images import IMAGES

PROJECT = Path(__file__).resolve().parents[2]
CONTAINERS = PROJECT / "containers"


def succeed(*command: str | Path) -> str:
    """What a command printed; its failure is the test's."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def built(base: str) -> dict[str, str]:
    """Every image as `make images` builds it, by the name that environment `test` gives it."""
    succeed(sys.executable, CONTAINERS / "build.py", "--env", "test", "--base-image", base, "--wheels")
    environment = load_settings("test").environment
    return {name: environment.image(name) for name in IMAGES}
