"""Build the images on whichever Docker answers: `make images`, or

    python containers/build.py [IMAGE ...] [--env ENV] [--base-image NAME] [--wheels] [--build-arg KEY=VALUE ...]

Names and tag are those that DAGs ask for in that environment. pip's settings of this machine (its index, its certificates)
hold in the build, unless they name files, which no builder can see. With `--wheels`, this machine's pip collects what the
images install, once for all of them, and the builds, on the host's network, take it from there: for a builder that reaches
no index, or has no compiler. Two images are built at a time; each line says of which it speaks.
"""

import argparse
import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from components.shared.contracts.errors import PipelineError, UsageError, unknown  # noqa: E402
from pipelines.cli import guarded  # noqa: E402
from pipelines.configuration import Environment, load_settings  # noqa: E402
from pipelines.images import IMAGES, revision, source_digest  # noqa: E402

PIP = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT", "PIP_DEFAULT_TIMEOUT")
SAGEMAKER_USER = "0:0"
"""SageMaker mounts /opt/ml for root: another user's job cannot write its model, nor why it failed."""


def build_arguments(environment: Environment, base_image: str | None) -> Iterator[tuple[str, str]]:
    """What every image is built with; weaker than what the command line says."""
    yield "VERSION", version("srl-rlvr")
    yield "REVISION", revision() or "unknown"
    yield "SOURCE_DIGEST", source_digest()
    if base_image:
        yield "BASE_IMAGE", base_image
        yield "BUILD_IMAGE", base_image
    if environment.sagemaker is not None:
        yield "RUN_AS", SAGEMAKER_USER
    for name in PIP:
        if (value := os.environ.get(name)) and (name == "PIP_CERT" or not value.startswith(("/", "file:"))):
            yield name, value


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """pip says what it fetches."""


@contextlib.contextmanager
def served_wheels(images: Sequence[str]) -> Iterator[list[str]]:
    """The options of builds that take every library from wheels which this machine's pip has collected."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as folder:
        constraints = ["--constraint", str(PROJECT / "requirements.lock")]
        for image in images:
            listed = [sys.executable, str(PROJECT / "containers" / "tools" / "image_requirements.py"), image]
            wanted = Path(folder) / f"{image}.txt"
            wanted.write_bytes(subprocess.run(listed, check=True, capture_output=True, cwd=PROJECT).stdout)
            constraints += ["--requirement", str(wanted)]
        if subprocess.run([*pip, "--wheel-dir", folder, *constraints]).returncode != 0:
            raise PipelineError(f"pip could not collect what {', '.join(images)} install: see above")
        with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            links = f"PIP_FIND_LINKS=http://127.0.0.1:{server.server_port}/"
            yield ["--network", "host", "--build-arg", links, "--build-arg", "PIP_NO_INDEX=1"]
            server.shutdown()


def build(image: str, name: str, options: list[str]) -> None:
    """Run one build to its end. Raises PipelineError with docker's last word."""
    file = PROJECT / "containers" / image / "Dockerfile"
    command = ["docker", "build", *options, "--file", str(file), "--tag", name, str(PROJECT)]
    line = "it said nothing"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as docker:
        assert docker.stdout is not None
        for line in docker.stdout:
            print(f"{image}: {line}", end="", flush=True)
    if docker.returncode != 0:
        raise PipelineError(f"docker could not build image {image} ({line.strip()}): see above")


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("images", nargs="*", metavar="IMAGE", help=f"{', '.join(IMAGES)}; all of them where none is named")
    p.add_argument("--env", default="local", help="file of configs/environments/")
    p.add_argument("--base-image", help="instead of python:3.11-slim, and of python:3.11, on which it is built")
    p.add_argument("--wheels", action="store_true", help="libraries from wheels that this machine's pip collects")
    p.add_argument("--build-arg", action="append", default=[], metavar="KEY=VALUE")
    p.add_argument("--names", action="store_true", help="build nothing, print the images' names")
    arguments = p.parse_args()
    for image in arguments.images:
        if image not in IMAGES:
            raise unknown("image", image, IMAGES)
    environment = load_settings(arguments.env).environment
    if arguments.names:
        print("\n".join(environment.image(image) for image in arguments.images or IMAGES))
        return 0
    if shutil.which("docker") is None:
        raise UsageError("no docker on the PATH: install Docker, or put its client there")
    given = [f"{key}={value}" for key, value in build_arguments(environment, arguments.base_image)]
    options = [word for pair in (*given, *arguments.build_arg) for word in ("--build-arg", pair)]
    images = arguments.images or IMAGES
    with served_wheels(images) if arguments.wheels else contextlib.nullcontext([]) as wheels:
        with ThreadPoolExecutor(max_workers=2) as pool:
            runs = [pool.submit(build, image, environment.image(image), [*options, *wheels]) for image in images]
            wait(runs, return_when=FIRST_EXCEPTION)
            pool.shutdown(wait=True, cancel_futures=True)
        for run in runs:
            if not run.cancelled():
                run.result()
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
