"""A measured arm as it lies on disk, one file a result, written whole."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.learning.plan import Job
from components.shared.contracts.errors import CorruptArtifact
from components.shared.contracts.records import Record
from components.shared.storage.artifacts import write_text


class Held(Record):
    """What the strict checker, which is never the reward, says of the answers to held-out scenarios; shares of 1."""

    score: float
    """Mean score of greedy answers."""
    correct: float
    """Share of greedy answers that are right in everything."""
    sampled: float
    """Mean score of answers sampled at temperature 1."""
    reward: float
    """Mean outcome reward of the greedy answers, for comparison."""
    scenarios: int


class Kept(Record):
    """What the policy can of a model type that it was not trained on."""

    accuracy: float
    """Share of held-out tasks that the greedy answer gets right."""
    score: float
    """Mean score of the same answers."""
    nll: float
    """Nats per token of experts' answers."""
    tasks: int


class ArmResult(Record):
    """One arm of one seed and model type."""

    model_type: str
    seed: int
    arm: str
    identity: str
    """Digest of all configurations that led to it."""
    stage_cpu_seconds: float
    """Processor seconds of the arm's own stage, the start of its process included."""
    cpu_seconds: float
    """The same with the stages before it."""
    updates: int
    highest_kl: float | None = None
    """Highest KL to the policy that the stage started from, after an accepted update; nats per token."""
    reason: str | None = None
    """How training ended, where the stage says."""
    test: Held
    kept: dict[str, Kept]
    """By model type: those that the arm does not train."""
    curves: dict[str, list[tuple[int, float]]]
    """Means of at most POINTS stretches of the run, by name, as (update, value)."""

    @property
    def job(self) -> Job:
        """What it is the result of."""
        return Job(self.model_type, self.seed, self.arm)


def result_file(folder: Path, job: Job) -> Path:
    """Where a job's result lies."""
    return folder / f"{job.model_type}-{job.seed}-{job.arm}.json"


def write_result(folder: Path, result: ArmResult) -> None:
    """Write the result, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(result_file(folder, result.job), result.model_dump_json(indent=1) + "\n")


def read_result(folder: Path, job: Job) -> ArmResult | None:
    """The job's result, none where there is none. Raises CorruptArtifact for a file that is not one."""
    path = result_file(folder, job)
    return parse_result(path) if path.is_file() else None


def read_results(folder: Path) -> Iterator[ArmResult]:
    """Every result of the folder."""
    yield from map(parse_result, sorted(folder.glob("*-*-*.json")))


def parse_result(path: Path) -> ArmResult:
    """The result in a file. Raises CorruptArtifact where it is not one."""
    try:
        return ArmResult.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise CorruptArtifact(
            f"{path} is not a result of this benchmark: remove it, and it is measured again"
        ) from error
