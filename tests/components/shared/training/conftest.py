"""A small data set and two small policies for tests that train for real."""

import os
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
PROJECT = FOLDER.parents[3]
sys.path += map(str, (FOLDER, FOLDER / "distributed", FOLDER / "grpo", PROJECT / "scripts"))

from forked import call  # noqa: E402


@pytest.fixture(scope="session")
def environment():
    """Variables of a process that trains: one thread, nothing from the network, the project importable."""
    paths = [str(PROJECT), str(PROJECT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """A folder with a sealed dataset/, and teacher/, pupil/ and student/."""
    from kill_driver import prepare

    folder = tmp_path_factory.mktemp("workspace")
    call(prepare, folder, log=folder / "prepare.log")
    return folder
