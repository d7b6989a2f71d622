"""A small data set and two small policies for tests that train for real."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("kill_driver.py")
PROJECT = DRIVER.parents[4]


@pytest.fixture(scope="session")
def environment():
    """Variables of a process that trains: one thread, nothing from the network, the project importable."""
    paths = [str(PROJECT), str(PROJECT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="session")
def workspace(tmp_path_factory, environment):
    """A folder with a sealed dataset/, teacher/ and student/."""
    folder = tmp_path_factory.mktemp("workspace")
    subprocess.run([sys.executable, DRIVER, folder], env=environment, check=True, capture_output=True)
    return folder
