"""Run the arms of a plan, each once: every stage a process of its own, whose processor seconds are its cost.

A result that is there is not measured again, and a trained policy that was not scored yet is not trained again.
"""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import JsonValue

from benchmarks.learning.plan import ARMS, Arm, Job, Plan
from benchmarks.learning.results import ArmResult, read_result, write_result
from components.catalogue import spec_of
from components.shared.contracts.configuration import parse_config
from components.shared.contracts.errors import PipelineError
from components.shared.contracts.records import Record, Split, Tier, content_id
from components.shared.storage.artifacts import MANIFEST, read_manifest, write_text
from components.shared.storage.paths import configs_root
from pipelines.configuration import Settings, load_settings

ROOT = Path(__file__).parents[2]
DATA_STAGES = {
    "trajectory_generation": ("", "", "trajectories"),
    "verification": ("trajectories", "trajectories", "verified"),
    "data_validation": ("verified", "verified", "dataset"),
}
"""What makes the data set: by stage, its input, the artifact that is given to it, and its output."""
DATA = "data"
"""The node before every arm of a model type and seed: it makes their data set."""
CURVES = ("nll", "kl_probe", "rollout_reward")
POINTS = 40
"""Points of a curve that are kept."""
FEW = 2
"""Updates of the run that shows what a stage costs to start."""
SFT_RATE = 2e-3
"""SFT's learning rate: the best that search.py found."""


read_settings = functools.cache(load_settings)


class Training(Record):
    """What a stage's process cost and said, beside the policy that it left."""

    cpu_seconds: float
    updates: int
    highest_kl: float | None = None
    reason: str | None = None
    curves: dict[str, list[tuple[int, float]]] = {}


@dataclass(frozen=True)
class Bench:
    """Where results, trained policies and data sets are kept, and what the stages are told."""

    results: Path
    work: Path
    environment: str = "local"
    tier: Tier = Tier.BRONZE
    assignments: tuple[str, ...] = ()
    """`--set` items on top of the environment's and the tier's settings."""

    # ---- the plan ---------------------------------------------------------------------------------------------------

    def run(self, plan: Plan, workers: int) -> None:
        """Measure what is missing of the plan, `workers` processes at a time.

        Raises PipelineError where a stage fails; what was measured until then stays.
        """
        missing = [job for job in plan.jobs() if self._known(job) is None]
        wanted = dict.fromkeys(needed for job in missing for needed in self._needed(job))
        before = {job: {job._replace(arm=name) for name in ARMS[job.arm].needs} & wanted.keys() for job in wanted}
        sorter = TopologicalSorter({job: {job._replace(arm=DATA)} | before[job] for job in wanted})
        sorter.prepare()
        with ThreadPoolExecutor(workers) as pool:
            try:
                running: dict[Future, Job] = {}
                while sorter.is_active():
                    running |= {pool.submit(self._measure, job): job for job in sorter.get_ready()}
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        future.result()
                        sorter.done(running.pop(future))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _needed(self, job: Job) -> Iterable[Job]:
        """The job, the arms whose policies it builds on, and those whose cost it must know and nothing tells."""
        yield job
        arm = ARMS[job.arm]
        if arm.parent is not None:
            yield from self._needed(job._replace(arm=arm.parent))
        if arm.equal_to is not None and self._known(job) is None:
            peer = job._replace(arm=arm.equal_to)
            if self._known(peer) is None:
                yield from self._needed(peer)

    def _measure(self, job: Job) -> None:
        if job.arm == DATA:
            self.make_dataset(job)
            return
        known = self._known(job)
        training, policy = self.trained(job, known)
        if known is None:
            self._judge(job, training, policy)

    def _known(self, job: Job) -> ArmResult | None:
        """The job's result; none where it was measured with another configuration, or not at all."""
        found = read_result(self.results, job)
        return found if found is not None and found.identity == self.identity(job) else None

    # ---- one arm ----------------------------------------------------------------------------------------------------

    def _judge(self, job: Job, training: Training, policy: Path) -> None:
        scores = self.scores(job, policy, Split.TEST)
        parent = ARMS[job.arm].parent
        before = self._cost(job._replace(arm=parent)) if parent else 0.0
        result = ArmResult(
            model_type=job.model_type,
            seed=job.seed,
            arm=job.arm,
            identity=self.identity(job),
            stage_cpu_seconds=training.cpu_seconds,
            cpu_seconds=before + training.cpu_seconds,
            updates=training.updates,
            highest_kl=training.highest_kl,
            reason=training.reason,
            curves=training.curves,
            **scores,
        )
        write_result(self.results, result)
        print(
            f"{job.model_type} seed {job.seed} {job.arm}: {100 * result.test.score:.1f} points, "
            f"{result.cpu_seconds:.0f} CPU s",
            flush=True,
        )

    def scores(self, job: Job, policy: Path, split: Split) -> dict[str, Any]:
        out = self.folder(job) / f"scores-{split}.json"
        arguments = ["--dataset", self.dataset(job), "--policy", policy, "--split", split]
        self._process(out, "benchmarks.learning.judge", *arguments, "--seed", job.seed, "--out", out)
        return json.loads(out.read_text())

    def trained(self, job: Job, known: ArmResult | None = None) -> tuple[Training, Path]:
        """The arm's policy, trained unless it is there."""
        arm = ARMS[job.arm]
        if arm.stage is None:
            return Training(cpu_seconds=0.0, updates=0), self.base(job)
        folder = self.folder(job)
        cost = folder / "training.json"
        if not cost.exists():
            budget = self._budget(job, arm, known)
            training = self.train_sft(job, budget) if arm.stage == "sft" else self._stage(job, arm, budget)
            write_text(cost, training.model_dump_json() + "\n")
        return Training.model_validate_json(cost.read_bytes()), folder / "policy"

    def _budget(self, job: Job, arm: Arm, known: ArmResult | None) -> float | None:
        """CPU-seconds that the stage may use; none where its configuration decides."""
        if arm.equal_to is None:
            return None
        if known is not None:
            return known.stage_cpu_seconds
        assert arm.parent is not None  # an arm that trains has one
        return self._cost(job._replace(arm=arm.equal_to)) - self._cost(job._replace(arm=arm.parent))

    def _cost(self, job: Job) -> float:
        found = self._known(job)
        assert found is not None  # the plan's order
        return found.cpu_seconds

    def train_sft(self, job: Job, seconds: float | None, rate: float = SFT_RATE) -> Training:
        assert seconds is not None  # every SFT arm is equal to another
        arm, folder = ARMS[job.arm], self.folder(job)
        arguments = ["--dataset", self.dataset(job), "--policy", self._policy(job, arm)]
        arguments += ["--output", folder / "policy", "--report", folder / "report"]
        arguments += ["--seconds", f"{seconds:.3f}", "--rate", rate, "--seed", job.seed]
        used = self._process(folder / "sft", "benchmarks.learning.sft", *arguments)
        curves = read_curves(folder / "report")
        return Training(cpu_seconds=used, updates=last_step(folder / "report"), curves=curves)

    def _stage(self, job: Job, arm: Arm, budget: float | None) -> Training:
        assert arm.stage is not None
        config = self.stage_config(job, arm.stage, arm.settings)
        if budget is not None:
            config |= {"steps": self._steps_for(job, arm, config, budget)}
        used, report = self.run_stage(job, arm, config, self.folder(job))
        metrics = report["metrics"]
        return Training(
            cpu_seconds=used,
            updates=metrics["updates"],
            highest_kl=metrics.get("highest_probe_kl", metrics["highest_kl"]),
            reason=report["details"]["reason"],
            curves=read_curves(self.folder(job) / "report"),
        )

    def _steps_for(self, job: Job, arm: Arm, config: dict[str, Any], budget: float) -> int:
        """Updates that cost `budget`, from the cost of a run of a few and of the run of the arm that it is equal to."""
        assert arm.equal_to is not None
        start, _ = self.run_stage(job, arm, config | {"steps": FEW}, self.folder(job) / "few-updates")
        peer = self._known(job._replace(arm=arm.equal_to))
        assert peer is not None  # the plan's order
        return updates_for(budget, few=(FEW, start), many=(peer.updates, peer.stage_cpu_seconds))

    def run_stage(self, job: Job, arm: Arm, config: dict[str, Any], folder: Path) -> tuple[float, dict[str, Any]]:
        assert arm.stage is not None
        inputs = {"dataset": self.dataset(job), "policy": self._policy(job, arm)}
        used = self._component(arm.stage, config, inputs, {n: folder / n for n in ("policy", "report")}, folder)
        return used, json.loads((folder / "report" / "report.json").read_text())

    def _policy(self, job: Job, arm: Arm) -> Path:
        assert arm.parent is not None
        return self.base(job) if arm.parent == "base" else self.folder(job._replace(arm=arm.parent)) / "policy"

    # ---- data and configuration -------------------------------------------------------------------------------------

    def make_dataset(self, job: Job) -> None:
        folder = self.dataset(job).parent
        for stage, (name, source, output) in DATA_STAGES.items():
            if not (folder / output / MANIFEST).exists():
                config = self.stage_config(job, stage)
                outputs = {output: folder / output, "report": folder / f"{stage}-report"}
                self._component(stage, config, {name: folder / source} if name else {}, outputs, folder)

    def stage_config(self, job: Job, stage: str, changes: dict[str, JsonValue] | None = None) -> dict[str, Any]:
        """What `make run` would tell the stage, with the job's model type and seed, and the arm's changes."""
        settings, spec = self._settings(job.model_type), spec_of(stage)
        parameters = {name: settings.defaults[name] for name in spec.parameters}
        if "seed" in parameters:
            parameters["seed"] = job.seed
        config = settings.config(stage, spec, {}, parameters).model_dump(mode="json")
        return parse_config(spec.config, config | (changes or {}), f"{stage} of {job.arm}").model_dump(mode="json")

    def identity(self, job: Job) -> str:
        """Digest of the configurations of the data and of every stage on the way to the arm's policy."""
        arm = ARMS[job.arm]
        before: list[JsonValue] = [self.identity(job._replace(arm=name)) for name in sorted(arm.needs)]
        if arm.stage is None:
            return content_id(read_manifest(self.base(job)).digest, self._data_identity(job), before)
        own = SFT_RATE if arm.stage == "sft" else self.stage_config(job, arm.stage, arm.settings)
        return content_id(arm.stage, own, before)

    def _data_identity(self, job: Job) -> str:
        return content_id([self.stage_config(job, stage) for stage in DATA_STAGES])

    def base(self, job: Job) -> Path:
        return configs_root() / self._settings(job.model_type).uri("base_uri", self.tier)

    def _settings(self, model_type: str) -> Settings:
        return read_settings(self.environment, self.tier, (*self.assignments, f"model_type={model_type}"))

    def folder(self, job: Job) -> Path:
        """Where the arm trains: another configuration, another folder."""
        return self.work / job.model_type / str(job.seed) / f"{job.arm}-{self.identity(job)}"

    def dataset(self, job: Job) -> Path:
        """Where the data set of the job's model type and seed lies, the same for every arm."""
        return self.work / job.model_type / str(job.seed) / f"data-{self._data_identity(job)}" / "dataset"

    # ---- processes --------------------------------------------------------------------------------------------------

    def _component(
        self, stage: str, config: dict[str, Any], inputs: dict[str, Path], outputs: dict[str, Path], folder: Path
    ) -> float:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{stage}.yaml"
        write_text(file, json.dumps(config, indent=1) + "\n")
        given = [a for name, path in inputs.items() for a in ("--input", f"{name}={path}")]
        made = [a for name, path in outputs.items() for a in ("--output", f"{name}={path}")]
        return self._process(folder / stage, "components", stage, "--config", file, *given, *made)

    def _process(self, name: Path, module: str, *arguments: Any) -> float:
        """Run a module to its end, its output in `name`.log; returns the processor seconds of it and its children.

        Raises PipelineError with the last line of its log where it fails.
        """
        log = name.with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, arguments)],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            lines = log.read_text(encoding="utf-8").strip().splitlines() or ["no output"]
            raise PipelineError(f"{module} {' '.join(map(str, arguments[:1]))} failed ({lines[-1]}): see {log}")
        return usage.ru_utime + usage.ru_stime


def updates_for(budget: float, *, few: tuple[int, float], many: tuple[int, float]) -> int:
    """Updates that cost `budget` seconds, on the line through two runs, each (updates, seconds); at least one.

    Raises PipelineError where more updates did not cost more, as an early end by the KL ceiling can have it.
    """
    if many[0] <= few[0] or many[1] <= few[1]:
        raise PipelineError(
            f"{many[0]} updates cost {many[1]:.1f} CPU s and {few[0]} cost {few[1]:.1f}: no cost of an update follows; "
            "train the first longer (rlvr.steps)"
        )
    each = (many[1] - few[1]) / (many[0] - few[0])
    return max(1, few[0] + round((budget - few[1]) / each))


def read_curves(report: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves of a stage's report, each thinned to means of at most POINTS stretches."""
    lines = metric_lines(report)
    curves = {name: [(int(line["step"]), line[name]) for line in lines if name in line] for name in CURVES}
    return {name: thinned(curve) for name, curve in curves.items() if curve}


def thinned(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Means over stretches of equal length, each at its last step."""
    length = -(-len(curve) // POINTS)
    stretches = [curve[i : i + length] for i in range(0, len(curve), length)]
    return [(part[-1][0], round(fmean(value for _, value in part), 4)) for part in stretches]


def last_step(report: Path) -> int:
    """The last update that the report's metrics know of; 0 for none."""
    return max((int(line["step"]) for line in metric_lines(report)), default=0)


def metric_lines(report: Path) -> list[dict[str, float]]:
    path = report / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
