"""Stages in containers of the very images that clusters run, under the same orchestrator, store and runs folder.

Each container sees the folders of its own inputs, read-only, and of its own outputs, at the paths that they have here; it
runs as the user who runs the engine, without a capability, and a training stage without a network. KFP's DockerRunner runs
the images too (tests/containers), but not this engine: it mounts one folder for everything, and it reports a failed
container that Docker removed before it was asked as a success.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.shared.contracts.environment import IMAGE, REQUEST_CACHE
from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.contracts.stage import Job, StageConfig
from components.shared.performance.mlflow_store import TRACKING_URI, database
from pipelines.engines.process import GRACE_SECONDS, Measured, StageJob
from pipelines.engines.stage_store import flat
from pipelines.images import SOURCE_LABEL, source_digest

if TYPE_CHECKING:
    from docker.models.containers import Container

IN_IMAGE = ("code ", "library.", "python")
"""Parts of a stage's key, by how they begin, for which the image stands."""
PASSED_ON = ("OMP_NUM_THREADS", "SRL_RLVR_CONTEXT_TOKEN", "SRL_RLVR_KNOWLEDGE_TOKEN")
KEY_VARIABLE = "key_variable"
"""Configuration keys that name an environment variable which holds a secret."""
FILES = ("accepted", "classifier", "tokenizer")
"""Configuration keys that name a file."""
SIGNALLED = {137: -9, 143: -15}
"""Exit codes of a container that SIGKILL or SIGTERM ended, as those of a process."""


@dataclass(frozen=True, kw_only=True)
class Containers:
    """Runs stages in containers. Raises UsageError where Docker does not answer."""

    cache: Path
    """Folder in which answers of paid endpoints outlive a container."""

    @cached_property
    def client(self) -> Any:
        import docker

        try:
            client = docker.from_env()
            client.ping()
        except docker.errors.DockerException as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"no Docker answers ({reason}): start it, or set DOCKER_HOST") from error
        return client

    def check(self, images: Iterable[str]) -> None:
        """Raise UsageError unless each image is there and was built from the source that is here."""
        wanted = source_digest()
        for image in sorted(images):
            if self._image(image).labels.get(SOURCE_LABEL) != wanted:
                raise UsageError(f"image {image} was built from other source than is here: run `make images`")

    def key_parts(self, image: str, parts: dict[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in parts.items() if not name.startswith(IN_IMAGE)}
        return {**kept, "image": self._image(image).id}

    def run(self, job: StageJob) -> tuple[int, Measured]:
        """Run a stage in a container that is named after its key, so that one left by a killed run is found and ended."""
        began = time.monotonic()
        name = f"srl-rlvr-{job.spec.name}-{job.key}"
        with docker_errors(job.image):
            self._end(name)
            container = self._start(job, name)
            try:
                with job.log.open("ab") as out:
                    for chunk in container.logs(stream=True, follow=True):
                        out.write(chunk)
                code = int(container.wait()["StatusCode"])
            finally:
                self._end(name)
        return SIGNALLED.get(code, code), {"seconds": round(time.monotonic() - began, 3)}

    def _start(self, job: StageJob, name: str) -> "Container":
        isolated = job.spec.job == Job.TRAINING
        return self.client.containers.run(
            job.image,
            list(job.command),
            entrypoint=[],
            name=name,
            detach=True,
            user=f"{os.getuid()}:{os.getgid()}",
            environment=environment(job, None if isolated else self.cache) | {IMAGE: str(self._image(job.image).id)},
            volumes=volumes(job, None if isolated else self.cache),
            network_mode="none" if isolated else "host",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            ipc_mode="private",
            shm_size="1g",
        )

    def _end(self, name: str) -> None:
        """Stop and remove a container, if there is one of that name."""
        import docker

        with contextlib.suppress(docker.errors.NotFound):
            container = self.client.containers.get(name)
            container.stop(timeout=GRACE_SECONDS)
            container.remove(force=True)

    def _image(self, name: str) -> Any:
        import docker

        with docker_errors(name):
            try:
                return self.client.images.get(name)
            except docker.errors.ImageNotFound as error:
                raise UsageError(f"no image {name}: run `make images`, or docker pull it") from error


def environment(job: StageJob, cache: Path | None) -> dict[str, str]:
    """What a container is told: nothing of this machine's environment but the secrets that its configuration names."""
    named = [*PASSED_ON, *secrets(job.config)]
    told = {name: os.environ[name] for name in named if name in os.environ}
    if cache is not None:
        told[REQUEST_CACHE] = str(cache.resolve() / "requests.sqlite")
    return {**told, **job.environment}


def secrets(config: StageConfig) -> list[str]:
    """The environment variables of secrets that a configuration names."""
    values = flat(config.model_dump(mode="json"))
    return [str(value) for name, value in values if value and name.rpartition(".")[2] == KEY_VARIABLE]


def volumes(job: StageJob, cache: Path | None) -> dict[str, dict[str, str]]:
    """The folders that a container sees, at the paths that they have here."""
    writes = [*job.writes]
    store = database(job.environment.get(TRACKING_URI, ""))
    if not job.spec.outputs and store is not None:
        writes.append(store.parent)
    if cache is not None:
        writes.append(cache)
    for path in writes:
        path.mkdir(parents=True, exist_ok=True)
    return {**mounts([*job.reads, *files(job.config)], "ro"), **mounts(writes, "rw")}


def files(config: StageConfig) -> list[Path]:
    """The files of this machine that a configuration names."""
    values = flat(config.model_dump(mode="json"))
    named = [Path(str(value)).absolute() for name, value in values if value and name.rpartition(".")[2] in FILES]
    return [path for path in named if path.is_file()]


def mounts(folders: Iterable[Path], mode: str) -> Mapping[str, dict[str, str]]:
    return {str(path.resolve()): {"bind": str(path.absolute()), "mode": mode} for path in folders}


@contextlib.contextmanager
def docker_errors(what: str) -> Iterator[None]:
    """Docker's refusals as one line."""
    import docker

    try:
        yield
    except docker.errors.DockerException as error:
        reason = " ".join(str(error).split())
        raise PipelineError(f"{what}: Docker refused ({reason}): see what its daemon says") from error
