"""A Docker daemon of the tests' own, a stand-in for the base image that no registry here serves, and the data image on it.

Without the programs these tests are skipped, but fail in CI, which has installed them.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2] / "containers" / "tools")]

from docker_images import CONTAINERS, PROJECT, built, succeed

BASE = "srl-rlvr-base:test"


def missing(reason: str) -> None:
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{reason}: run containers/tools/install.sh as root")


@pytest.fixture(scope="session")
def hadolint() -> str:
    path = PROJECT / ".venv-containers" / "bin" / "hadolint"
    if not path.exists():
        missing(f"no {path}")
    return str(path)


@pytest.fixture(scope="session")
def docker_daemon(tmp_path_factory) -> Iterator[str]:
    """The socket of a private daemon, which DOCKER_HOST names for the session."""
    for program in ("dockerd", "docker", "runc"):
        if shutil.which(program) is None:
            missing(f"no {program}")
    if os.getuid() != 0:
        pytest.skip("a daemon of one's own needs root")
    folder, script = tmp_path_factory.mktemp("dockerd"), CONTAINERS / "tools" / "dockerd.sh"
    started = subprocess.run([script, "start", folder], capture_output=True, text=True)
    if started.returncode != 0:
        missing(f"no Docker daemon starts here ({started.stderr.strip()})")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", f"unix://{started.stdout.strip()}")
        patch.setenv("DOCKER_CONFIG", str(folder / "config"))
        patch.setenv("DOCKER_BUILDKIT", "0")
        yield os.environ["DOCKER_HOST"]
        succeed(script, "stop", folder)
    # Gigabytes that pytest would keep for three sessions.
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def base_image(docker_daemon) -> str:
    succeed(sys.executable, CONTAINERS / "tools" / "base_image.py", BASE)
    return BASE


@pytest.fixture(scope="session")
def data_image(base_image) -> str:
    return built("data", base_image)


@pytest.fixture(scope="session")
def docker_client(docker_daemon):
    import docker

    client = docker.from_env()
    yield client
    client.close()
