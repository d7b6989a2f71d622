"""A Docker daemon of the tests' own, a stand-in for the base image that no registry here serves, and the images on it.

Where no daemon can start these tests are skipped, with the reason; with SRL_RLVR_CONTAINERS=required, as in .ci/run, they
fail instead. The images are built once, for the first test that asks for one.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

sys.path += [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2] / "containers" / "tools")]

from docker_images import CONTAINERS, PROJECT, built, succeed

from components.shared.contracts.errors import UsageError
from pipelines.cli import cli, guarded
from pipelines.engines.run_folder import RunFolder, all_runs
from pipelines.engines.sagemaker_local import sdk_interpreter

BASE = "srl-rlvr-base:test"
TOOLS = PROJECT / ".venv-containers" / "bin"
REQUIRED = os.environ.get("SRL_RLVR_CONTAINERS") == "required"


def missing(reason: str, remedy: str = "run containers/tools/install.sh as root") -> NoReturn:
    (pytest.fail if REQUIRED else pytest.skip)(f"{reason}: {remedy}")
    raise AssertionError


def tool(name: str) -> Path:
    if not (TOOLS / name).exists():
        missing(f"no {TOOLS / name}")
    return TOOLS / name


@pytest.fixture(scope="session")
def hadolint() -> str:
    return str(tool("hadolint"))


@pytest.fixture(scope="session")
def syft() -> str:
    return str(tool("syft"))


@pytest.fixture(scope="session")
def compose() -> str:
    """The PATH on which the SDK's local mode finds docker-compose."""
    return os.pathsep.join([str(tool("docker-compose").parent), os.environ["PATH"]])


@pytest.fixture(scope="session")
def sdk() -> Path:
    """The interpreter that has the SageMaker SDK, which `make sagemaker` installs."""
    try:
        return sdk_interpreter()
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def docker_daemon(tmp_path_factory) -> Iterator[str]:
    """The socket of a private daemon, which DOCKER_HOST names for the session."""
    for program in ("dockerd", "docker", "runc"):
        if shutil.which(program) is None:
            missing(f"no {program}")
    if os.getuid() != 0:
        missing("a daemon of one's own needs root", "run as root")
    folder, script = tmp_path_factory.mktemp("dockerd"), CONTAINERS / "tools" / "dockerd.sh"
    started = subprocess.run([script, "start", folder], capture_output=True, text=True)
    if started.returncode != 0:
        missing(f"no Docker daemon starts here ({started.stderr.strip()})", "try containers/tools/dockerd.sh probe")
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
def images(base_image) -> dict[str, str]:
    return built(base_image)


@pytest.fixture(scope="session")
def data_image(images) -> str:
    return images["data"]


@pytest.fixture(scope="session")
def training_image(images) -> str:
    return images["training"]


@pytest.fixture(scope="session")
def serving_image(images) -> str:
    return images["serving"]


@pytest.fixture(scope="session")
def docker_client(docker_daemon):
    import docker

    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(scope="session")
def post_training_run(data_image, training_image, tmp_path_factory) -> RunFolder:
    """post_training in containers, small, on the tier that one machine trains; whatever it gains is enough."""
    runs = tmp_path_factory.mktemp("post_training")
    arguments = [
        "run",
        "post_training",
        "--env",
        "test",
        "--tier",
        "gold",
        "--engine",
        "docker",
        "--set",
        "min_gain=-1",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRL_RLVR_RUNS", str(runs))
        patch.setenv("OMP_NUM_THREADS", "1")
        assert guarded(lambda: cli.main(arguments, standalone_mode=False)) == 0
    (folder,) = all_runs(runs)
    return folder
