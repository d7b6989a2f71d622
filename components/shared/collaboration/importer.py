"""Bring your own expert demonstrations: `srl-rlvr import FILE --format FORMAT --model-type T`.

trajectories   records as this system writes them
messages       {"messages": [{"role", "content"}, ...]}: the last user turn is the prompt, the assistant's turn after it the
               steps, as numbered lines `1. **Title** text`, as JSON {"steps": [...]}, or as GSM8K's lines
gsm8k          {"question", "answer"} or {"problem", "solution"}: each line of the solution is a step, and the last line,
               `#### answer`, the outcome

What comes out is a trajectories artifact without verdicts: the verification stage reads it next, and believes nothing in
it. A row that cannot be read is quarantined as it came, with the reason; accepted and quarantined make up all rows.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from components.shared.collaboration.record_streams import rows
from components.shared.collaboration.teacher_planner import UnreadableAnswer, read_steps
from components.shared.contracts.errors import GateError
from components.shared.contracts.records import Rejected, Trajectory
from components.shared.contracts.stage import ArtifactKind
from components.shared.storage.artifacts import seal, whole
from components.shared.storage.quarantine import refuse, sift
from components.shared.trainers.base_trainer import ModelTypeTrainer
from components.shared.trainers.trainer_factory import create_trainer
from components.shared.training.datasets import origin

STAGE = "import"
NUMBERED = re.compile(r"^\s*\d+\.\s+\*\*(?P<title>[^*]+)\*\*\s*(?P<text>.*)$")
MARK = "####"


class ImportFormat(StrEnum):
    """How a file's rows are to be read."""

    TRAJECTORIES = "trajectories"
    MESSAGES = "messages"
    GSM8K = "gsm8k"


class Message(BaseModel):
    model_config = ConfigDict(extra="ignore")

    role: str
    content: str


class Conversation(BaseModel):
    model_config = ConfigDict(extra="ignore")

    messages: list[Message]


class SolvedProblem(BaseModel):
    """A row of GSM8K, or of the sets that call the same two things problem and solution."""

    model_config = ConfigDict(extra="ignore")

    question: str
    answer: str

    @model_validator(mode="before")
    @classmethod
    def _names(cls, row: object) -> object:
        if isinstance(row, dict) and "problem" in row and "solution" in row:
            return {"question": row["problem"], "answer": row["solution"]}
        return row


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What came of a file."""

    read: int
    accepted: int
    quarantined: dict[str, int]
    """Rows by the rule that refused them."""


class _Refused(Exception):
    def __init__(self, rule: str, reason: str):
        super().__init__(reason)
        self.rule = rule


def import_file(source: Path, form: ImportFormat, model_type: str, target: Path, world: str = "wrackmere") -> Imported:
    """Write the trajectories artifact `target` from `source`, row by row.

    Raises UsageError for a missing file, an unknown model type or world, PipelineError for a file that ends too early, and
    GateError where not one row could be read; then nothing is written.
    """
    trainer = create_trainer(model_type, world)
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    with whole(target) as folder:
        with ExitStack() as files:
            names = ("trajectories", "scenarios", "quarantine")
            out = {n: files.enter_context((folder / f"{n}.jsonl").open("w", encoding="utf-8")) for n in names}
            for line in rows(source):
                record = read_row(line, form, trainer)
                if isinstance(record, Rejected):
                    counts[record.rule] += 1
                    out["quarantine"].write(record.model_dump_json() + "\n")
                    continue
                counts[""] += 1
                out["trajectories"].write(record.model_dump_json() + "\n")
                if record.scenario.id not in seen:
                    seen.add(record.scenario.id)
                    out["scenarios"].write(record.scenario.model_dump_json() + "\n")
        accepted = counts.pop("", 0)
        if not accepted:
            refused = ", ".join(f"{count} by {rule}" for rule, count in counts.most_common()) or "it has none"
            raise GateError(f"no row of {source} can be read as {form} of {model_type} ({refused}): check the format")
        seal(folder, ArtifactKind.TRAJECTORIES, {"stage": STAGE, **origin(trainer, world)})
    return Imported(read=accepted + counts.total(), accepted=accepted, quarantined=dict(sorted(counts.items())))


def read_row(line: bytes, form: ImportFormat, trainer: ModelTypeTrainer) -> Trajectory | Rejected:
    """One row as a trajectory that claims nothing for itself, or refused with the reason."""
    if form == ImportFormat.TRAJECTORIES:
        found = sift(line, Trajectory, STAGE)
        if isinstance(found, Rejected):
            return found
        if found.scenario.model_type != trainer.name:
            return refuse(line, STAGE, "model_type", f"model type {found.scenario.model_type!r}, not {trainer.name!r}")
        return found.model_copy(update={"verdict": None})
    try:
        prompt, answer = _conversation(line) if form == ImportFormat.MESSAGES else _problem(line)
        return _trajectory(trainer, prompt, answer)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "line"
        return refuse(line, STAGE, "schema", f"{where}: {fault['msg']}")
    except _Refused as refused:
        return refuse(line, STAGE, refused.rule, str(refused))


def _trajectory(trainer: ModelTypeTrainer, prompt: str, answer: str) -> Trajectory:
    outcome = answer.rpartition(MARK)[2].strip() if MARK in answer else None
    scenario = trainer.scenario_from(prompt, outcome)
    if scenario is None:
        raise _Refused("scenario", f"{trainer.name} makes no scenario of the prompt {prompt[:80]!r}")
    try:
        steps = read_steps(trainer, scenario, as_draft(answer))
    except UnreadableAnswer as fault:
        raise _Refused("steps", str(fault)) from fault
    return trainer.trajectory(scenario, steps, teacher=STAGE, context=(), attempt=1)


def as_draft(answer: str) -> str:
    """An answer in any of the three forms as the JSON that a teacher would have written."""
    lines = [line for line in answer.splitlines() if line.strip()]
    if answer.lstrip().startswith("{"):
        return answer
    if MARK in answer:
        steps = [
            {"title": "Answer" if line.lstrip().startswith(MARK) else "Work", "text": line.strip()} for line in lines
        ]
    else:
        steps = list(_numbered(lines))
    return json.dumps({"steps": steps}, ensure_ascii=False)


def _numbered(lines: list[str]) -> Iterator[dict[str, str]]:
    """Steps of `1. **Title** text` lines; what follows such a line without a number goes on with its text."""
    title, text = "", ""
    for line in lines:
        found = NUMBERED.match(line)
        if found is None:
            text = f"{text} {line.strip()}".strip()
            continue
        if title:
            yield {"title": title, "text": text}
        title, text = found["title"].strip(), found["text"].strip()
    if title:
        yield {"title": title, "text": text}


def _conversation(line: bytes) -> tuple[str, str]:
    messages = Conversation.model_validate_json(line).messages
    if len(messages) < 2 or messages[-1].role != "assistant" or messages[-2].role != "user":
        raise _Refused("turns", "the last two messages are not a user's and the assistant's answer to it")
    return messages[-2].content, messages[-1].content


def _problem(line: bytes) -> tuple[str, str]:
    problem = SolvedProblem.model_validate_json(line)
    if not problem.answer.strip().splitlines() or not problem.answer.strip().splitlines()[-1].lstrip().startswith(MARK):
        raise _Refused("outcome", f"the solution's last line is not `{MARK} answer`")
    return problem.question, problem.answer
