"""Where the project's own files lie, in a checkout and in a container."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]


def configs_root() -> Path:
    """The folder of configurations: SRL_RLVR_CONFIGS, or configs/ beside the packages."""
    return Path(os.environ.get("SRL_RLVR_CONFIGS", PROJECT / "configs"))
