"""What a tier answered, as training data for the tiers below it: the best answer to each scenario, by the verifier.

    srl-rlvr collect-traces FOLDER... --model-type T --night 2026-01-06 --out OUT --state STATE

    FOLDER                                     traces-*.jsonl, as the router and its layers write them; a path or s3://
    OUT/MODELTYPE/night=2026-01-06/            {trajectories,scenarios,quarantine}.parquet, manifest.json
    STATE/MODELTYPE/traces.json                where they lie, and what they are made of: what the nightly machine reads

With `--policy` the tier's policy answers training scenarios too: what it is good at is then known beyond what players
happen to ask. A trace is believed in nothing: its scenario is derived again and its answer is verified again. What comes
out is a trajectories artifact, which the `distillation` DAG's data validation examines as it does any other (personal
data by its own recognisers, contamination, duplicates); what is plain already here is refused here. Kept and quarantined
traces make up all that were read.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel, JsonValue

from components.shared.contracts.errors import GateError, PipelineError, UsageError
from components.shared.contracts.records import Rejected, Scenario, Split, Tier, Trace, Trajectory, content_id
from components.shared.contracts.stage import ArtifactKind
from components.shared.serving.redaction import PLACEHOLDER, redact
from components.shared.serving.traces import FILES
from components.shared.storage.artifacts import seal
from components.shared.storage.places import S3, fetched, published, put_text
from components.shared.storage.quarantine import lines, refuse, sift
from components.shared.trainers.base_trainer import ModelTypeTrainer
from components.shared.trainers.trainer_factory import create_trainer
from components.shared.training.datasets import SERVED, origin

STAGE = "trace_collection"
"""Who noted traces.json: the state machine notes a night's verified trajectories only where this has noted nothing."""
ROWS = 1024
"""Rows of a Parquet row group that is written at a time."""
Fault = tuple[str, str]
"""Which rule refuses a trace, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """What to collect."""

    model_type: str
    world: str = "wrackmere"
    tier: Tier = Tier.BRONZE
    """Whose answers."""
    night: str
    """YYYY-MM-DD."""
    min_scenarios: int = 100
    """Scenarios with an answer worth keeping, below which nothing is written."""
    held_out: Mapping[Split, int] = field(default_factory=lambda: {Split.VALIDATION: 100, Split.TEST: 1000})
    """Held-out scenarios to draw, on which the students are measured."""
    seed: int = 0
    policy: Path | None = None
    """The tier's policy, to answer training scenarios itself."""
    scenarios: int = 500
    """Training scenarios that it answers."""
    samples: int = 4
    """Answers to each of them."""
    max_tokens: int = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What came of it."""

    read: int
    kept: int
    quarantined: dict[str, int]
    """Traces by the rule that refused them."""
    disagreements: int
    """Traces whose claimed score is not the one found."""
    policies: dict[str, int]
    """Kept answers by the policy that gave them."""
    uri: str
    """Where the artifact lies, with a slash at the end."""


def collect(sources: Sequence[str], out: str, state: str | None, wanted: Collection) -> Collected:
    """Write the night's artifact below `out` and, where `state` is given, note it in traces.json there.

    Raises UsageError for a request that makes no sense, PipelineError for a source that cannot be read, and GateError
    where fewer than `min_scenarios` have an answer worth keeping: then nothing is written.
    """
    checked(sources, wanted)
    trainer = create_trainer(wanted.model_type, wanted.world)
    held_out = drawn(trainer, wanted.held_out, wanted.seed)
    place = f"{out.rstrip('/')}/{wanted.model_type}/night={wanted.night}"
    with published(place) as folder, ExitStack() as open_files:
        quarantine = open_files.enter_context(Table(folder / "quarantine.parquet", ("stage", "rule", "reason")))
        collector = Collector(trainer, wanted.tier, {s.id for s in held_out}, quarantine)
        for line in traces(sources, trainer, wanted, open_files):
            collector.take(line)
        if len(collector.best) < wanted.min_scenarios:
            rules = ", ".join(f"{count} by {rule}" for rule, count in collector.rules.most_common()) or "none"
            raise GateError(
                f"{len(collector.best)} scenarios have an answer of {wanted.tier} worth keeping, {wanted.min_scenarios} "
                f"are wanted (of {collector.read} traces quarantined: {rules}): give more traces, or --policy"
            )
        write_kept(folder, collector, held_out)
        open_files.close()
        done = collector.summary(f"{place}/" if place.startswith(S3) else f"{Path(place).resolve()}/")
        seal(folder, ArtifactKind.TRAJECTORIES, {**origin(trainer, wanted.world), **facts(wanted, done)})
    if state:
        note(f"{state.rstrip('/')}/{wanted.model_type}/traces.json", wanted, done)
    return done


def checked(sources: Sequence[str], wanted: Collection) -> None:
    """Raises UsageError where there is nothing to collect from, or the night is no date."""
    if not sources and wanted.policy is None:
        raise UsageError("no traces to collect: give a folder of traces-*.jsonl, or --policy")
    try:
        date.fromisoformat(wanted.night)
    except ValueError as error:
        raise UsageError(f"night {wanted.night!r} is no date: write YYYY-MM-DD") from error


def drawn(trainer: ModelTypeTrainer, counts: Mapping[Split, int], seed: int) -> list[Scenario]:
    """So many scenarios of each split: a function of the seed."""
    rng = random.Random(seed)
    return [s for split, count in counts.items() for s in trainer.scenarios(rng, count, [split])]


def traces(
    sources: Sequence[str], trainer: ModelTypeTrainer, wanted: Collection, folders: ExitStack
) -> Iterator[bytes]:
    """Every line of the sources, in an order that does not depend on the machine, then the policy's own answers."""
    for source in sources:
        folder = folders.enter_context(fetched(source))
        files = sorted(folder.rglob(FILES))
        if not files:
            raise PipelineError(f"no {FILES} in {source}: give a router's folder of traces")
        for file in files:
            yield from lines(file)
    if wanted.policy is not None:
        for trace in evaluated(wanted.policy, trainer, wanted):
            yield trace.model_dump_json().encode()


def evaluated(folder: Path, trainer: ModelTypeTrainer, wanted: Collection) -> Iterator[Trace]:
    """What the policy in `folder` answers to training scenarios, sampled, as traces."""
    from components.shared.storage.artifacts import verify
    from components.shared.training.policies import deterministic, load_frozen
    from components.shared.training.rollouts import complete

    digest = verify(folder, ArtifactKind.POLICY).digest
    policy = load_frozen(folder)
    scenarios = drawn(trainer, {Split.TRAIN: wanted.scenarios}, wanted.seed)
    deterministic(wanted.seed)
    for sample in range(wanted.samples):
        began = time.monotonic()
        answers = complete(policy, [s.prompt for s in scenarios], max_tokens=wanted.max_tokens, temperature=1.0)
        latency_ms = 1000 * (time.monotonic() - began) / max(1, len(scenarios))
        for scenario, answer in zip(scenarios, answers, strict=True):
            yield Trace(
                id=content_id(digest, scenario.id, sample),
                scenario=scenario,
                model_type=trainer.name,
                tier=wanted.tier,
                policy=digest[:12],
                prompt=scenario.prompt,
                completion=answer,
                latency_ms=latency_ms,
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An answer that may be trained on."""

    line: bytes
    trace: Trace
    trajectory: Trajectory
    reward: float
    """Outcome, in [0, 1]."""

    @property
    def rank(self) -> tuple[float, float, str]:
        """Who stays: the best by outcome, then by process, then by content, so that no order of reading decides."""
        verdict = self.trajectory.verdict
        return -self.reward, -(verdict.score if verdict else 0.0), self.trajectory.id


class Collector:
    """Judges traces one by one and remembers the best of each scenario."""

    def __init__(self, trainer: ModelTypeTrainer, tier: Tier, held_out: set[str], quarantine: "Table"):
        """`held_out` are the ids of the scenarios that nothing may be trained on."""
        self._trainer, self._tier, self._held_out, self._quarantine = trainer, tier, held_out, quarantine
        self.best: dict[str, Candidate] = {}
        self.rules: Counter[str] = Counter()
        self.read = self.disagreements = 0

    def take(self, line: bytes) -> None:
        """Keep a trace, or put it into quarantine with the reason; of two that answer one scenario, the lesser one."""
        self.read += 1
        found = self._judged(line)
        if isinstance(found, Rejected):
            self._refuse(found)
            return
        id = found.trajectory.scenario.id
        rival = self.best.get(id)
        if rival is None:
            self.best[id] = found
            return
        self.best[id], lesser = sorted((rival, found), key=lambda candidate: candidate.rank)
        same = lesser.trajectory.id == self.best[id].trajectory.id
        rule = "duplicate" if same else "not_best"
        self._refuse(refuse(lesser.line, STAGE, rule, f"trace {self.best[id].trace.id} answers scenario {id} as well"))

    def summary(self, uri: str) -> Collected:
        """The counts. Raises PipelineError unless kept and quarantined make up all that was read."""
        kept, quarantined = len(self.best), self.rules.total()
        if kept + quarantined != self.read:
            raise PipelineError(f"{kept} traces kept and {quarantined} quarantined of {self.read}: {STAGE} lost some")
        return Collected(
            read=self.read,
            kept=kept,
            quarantined=dict(sorted(self.rules.items())),
            disagreements=self.disagreements,
            policies=dict(Counter(candidate.trace.policy for candidate in self.best.values())),
            uri=uri,
        )

    def _refuse(self, rejected: Rejected) -> None:
        self.rules[rejected.rule] += 1
        self._quarantine.add(rejected, stage=rejected.stage, rule=rejected.rule, reason=rejected.reason)

    def _judged(self, line: bytes) -> Candidate | Rejected:
        trace = sift(line, Trace, STAGE)
        if isinstance(trace, Rejected):
            return trace
        found = self._foreign(trace) or self._unsafe(trace) or self._answered(line, trace)
        return found if isinstance(found, Candidate) else refuse(line, STAGE, *found)

    def _foreign(self, trace: Trace) -> Fault | None:
        if trace.model_type != self._trainer.name:
            return "model_type", f"model type {trace.model_type!r}, not {self._trainer.name!r}"
        if trace.tier != self._tier:
            return "tier", f"an answer of {trace.tier}, not of {self._tier}"
        return None

    @staticmethod
    def _unsafe(trace: Trace) -> Fault | None:
        """Reasons name the place and never the value: they are read by many."""
        texts = {"prompt": trace.prompt, "completion": trace.completion}
        if trace.scenario is not None:
            texts["scenario"] = trace.scenario.model_dump_json()
        for name, text in texts.items():
            if redact(text) != text:
                return "personal_data", f"{name} holds personal data or a secret: its writer did not redact"
        if PLACEHOLDER.search(trace.completion):
            return "redacted", "the answer was redacted: it is not what the policy said"
        return None

    def _answered(self, line: bytes, trace: Trace) -> Candidate | Fault:
        scenario = trace.scenario or self._trainer.scenario_from(trace.prompt)
        if scenario is None:
            return "scenario", "the scenario is not known: no verifier can say what the answer is worth"
        try:
            return self._scenario_fault(scenario) or self._candidate(line, trace, scenario)
        except (PipelineError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # The scenario came with the request: its state may be anything that JSON can say.
            return "state", f"{type(error).__name__}: {' '.join(str(error).split())}"

    def _scenario_fault(self, scenario: Scenario) -> Fault | None:
        trainer = self._trainer
        if scenario.model_type != trainer.name or scenario.id != trainer.scenario_id(scenario.state):
            return "id", f"scenario {scenario.id!r} is not what its state says"
        if scenario.prompt != trainer.prompt(scenario.state):
            return "prompt", f"scenario {scenario.id} asks otherwise than its state says"
        if scenario.split != trainer.split_of(scenario.group):
            return "split", f"group {scenario.group!r} belongs to {trainer.split_of(scenario.group)}"
        if scenario.split == Split.TEST or scenario.id in self._held_out:
            return "contamination", f"scenario {scenario.id} is held out: nothing is trained on it"
        return None

    def _candidate(self, line: bytes, trace: Trace, scenario: Scenario) -> Candidate | Fault:
        trainer = self._trainer
        outcome = trainer.reward(scenario, trace.completion)
        if trace.score is not None and abs(trace.score - outcome.total) > 1e-6:
            self.disagreements += 1
        steps = trainer.steps_of(scenario, trace.completion)
        if steps is None:
            return "unreadable", "the answer does not follow the model type's schema"
        verdict = trainer.verify(scenario, steps)
        if outcome.gate is not None or not verdict.passed:
            reasons = "; ".join(verdict.reasons) or f"outcome gate {outcome.gate}, score {verdict.score:g}"
            return "verifier", reasons
        rewards = trainer.judge(scenario, steps)
        judged = [step.model_copy(update={"reward": r}) for step, r in zip(steps, rewards, strict=True)]
        teacher = f"{SERVED}{trace.tier}/{trace.policy}"
        trajectory = trainer.trajectory(scenario, judged, teacher=teacher, context=(), attempt=1)
        trajectory = trajectory.model_copy(update={"verdict": verdict})
        return Candidate(line=line, trace=trace, trajectory=trajectory, reward=outcome.total)


class Table:
    """A Parquet file of records: a column of JSON text, `record`, and columns of text and numbers to filter by."""

    def __init__(self, path: Path, columns: Sequence[str], numbers: Sequence[str] = ()):
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = [(name, pa.string()) for name in columns] + [(name, pa.float64()) for name in numbers]
        self._schema = pa.schema([*kinds, ("record", pa.string())])
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()

    def add(self, record: BaseModel, **columns: str | float) -> None:
        self._rows.append({**columns, "record": record.model_dump_json()})
        if len(self._rows) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows = []


def write_kept(folder: Path, collector: Collector, held_out: Iterable[Scenario]) -> None:
    """The best answers by scenario, and every scenario that is theirs or held out."""
    best = [collector.best[id] for id in sorted(collector.best)]
    with Table(folder / "trajectories.parquet", ("scenario", "policy", "trace"), ("reward", "score")) as table:
        for kept in best:
            trajectory, verdict = kept.trajectory, kept.trajectory.verdict
            table.add(
                trajectory,
                scenario=trajectory.scenario.id,
                policy=kept.trace.policy,
                trace=kept.trace.id,
                reward=kept.reward,
                score=verdict.score if verdict else 0.0,
            )
    with Table(folder / "scenarios.parquet", ("scenario", "split")) as table:
        for scenario in [*(kept.trajectory.scenario for kept in best), *held_out]:
            table.add(scenario, scenario=scenario.id, split=scenario.split)


def facts(wanted: Collection, done: Collected) -> dict[str, JsonValue]:
    """What the manifest and traces.json say of a collection."""
    return {
        "stage": STAGE,
        "night": wanted.night,
        "tier": wanted.tier,
        "read": done.read,
        "kept": done.kept,
        "quarantined": dict(done.quarantined),
        "disagreements": done.disagreements,
        "policies": dict(done.policies),
    }


def note(place: str, wanted: Collection, done: Collected) -> None:
    """Write traces.json: `uri`, `night` and `execution` as the state machine has them, and what a person wants to know."""
    noted = {"uri": done.uri, "execution": None, **facts(wanted, done)}
    put_text(place, json.dumps(noted, indent=1) + "\n")
