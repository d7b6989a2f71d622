"""A finished night, made of sealed reports like those that stages write."""

import json
import math
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from components.shared.contracts.records import Outcome, Tier
from components.shared.contracts.stage import ArtifactKind, Report
from components.shared.contracts.weakness import ANSWERS, WEAKNESSES, Checked, Evaluated
from components.shared.performance.weakness_detector import detect
from components.shared.storage.artifacts import seal
from pipelines.engines.run_folder import RunFolder, RunState, TaskState, TaskStatus

if (here := str(Path(__file__).parent)) not in sys.path:
    sys.path.insert(0, here)

START = datetime(2026, 1, 1, tzinfo=UTC)
HOSTILE = "<script>document.title = 'taken'</script>"


def interval(mean, half=0.02):
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 200}


def scores(mean):
    return {kind: interval(mean) for kind in ("greedy", "sampled", "correct")}


def evaluation_files(failing):
    """answers.jsonl and weaknesses.json of 200 scenarios: those of manner `threat` fail, and `failing` of the others."""
    wrong = Checked(score=0.4, correct=False, faults=(HOSTILE,))
    right = Checked(score=1.0, correct=True, faults=())
    answers = [
        Evaluated(
            scenario=f"s{i:03}",
            traits={"manner": "threat" if i < 50 else "ask"},
            difficulty=0.5,
            outcomes={"candidate": wrong if i < 50 + failing else right, "champion": right},
        )
        for i in range(200)
    ]
    report = detect(answers, model_type="npc_dialogue", policy="p", role="candidate", accepted="champion")
    lines = "".join(answer.model_dump_json() + "\n" for answer in answers)
    return ((ANSWERS, lines), (WEAKNESSES, report.model_dump_json()))


def gate(**criteria):
    found = {name: {"value": v, "bound": b, "margin": v - b} for name, (v, b) in criteria.items()}
    margin = min(c["margin"] for c in found.values())
    return {"margin": margin, "accepted": margin >= 0, "criteria": found}


class Night:
    """Builds a run task by task; every report is sealed, and what a task reads is named by its digest."""

    def __init__(self, runs: Path, run_id: str):
        self.started = START + timedelta(days=len(list(runs.glob("*/run.json"))))
        state = RunState(
            run_id=run_id,
            dag="nightly",
            environment="local",
            tier=Tier.BRONZE,
            tracking_uri="sqlite:///mlflow.db",
            parameters={"model_type": "npc_dialogue", "seed": 0, "base_uri": "/anywhere"},
            started=self.started,
        )
        self.folder = RunFolder.create(runs, state)
        self.clock = 0.0

    def report(
        self, name, stage, *, after=(), seconds=10.0, metrics=(), samples=(), files=(), config=None, inputs=None, **said
    ):
        """A finished task; returns the digest of its report."""
        place = Path("store") / self.folder.state.run_id / name
        path = self.folder.runs / place
        path.mkdir(parents=True)
        report = Report(stage=stage, summary=f"{name} is done", **said)
        (path / "report.json").write_text(report.model_dump_json())
        for file, lines in (("metrics", metrics), ("samples", samples)):
            (path / f"{file}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for file, text in files:
            (path / file).write_text(text)
        manifest = seal(path, ArtifactKind.REPORT, {"stage": stage, "config": config or {}, "inputs": inputs or {}})
        done = TaskState(
            stage=stage,
            after=after,
            status=TaskStatus.DONE,
            started=self.started + timedelta(seconds=self.clock),
            seconds=seconds,
            cpu_seconds=seconds / 2,
            peak_mib=300.0,
            outputs={"report": str(place)},
        )
        self.clock += seconds
        self.folder.change(tasks={**self.folder.state.tasks, name: done})
        return manifest.digest

    def skip(self, name, stage, after):
        task = TaskState(stage=stage, after=after, status=TaskStatus.SKIPPED)
        self.folder.change(tasks={**self.folder.state.tasks, name: task})

    def end(self, outcome):
        self.folder.change(outcome=outcome, finished=self.started + timedelta(seconds=self.clock))
        return self.folder


@pytest.fixture
def make_night(tmp_path):
    """A night by its id, SRL's steps, the alias that its policy got, how many answers fail, and the policy's digest."""

    def make(run_id="night", steps=600, alias="champion", failing=10, registered=None):
        night = Night(tmp_path / "runs", run_id)
        night.report(
            "data_validation",
            "data_validation",
            details={
                "trajectories": {"read": 120, "kept": 100, "quarantined": 20, "train": 90, "validation": 10},
                "rules": {f"rule-{i}": i + 1 for i in range(12)},
                "classes": {HOSTILE: 90},
            },
            metrics=(),
        )
        curve = [{"step": s, "loss": 1 / (s + 1), "kl": 0.05 + 0.04 * math.sin(s / 9)} for s in range(steps)]
        config = {"steps": steps, "max_kl": 0.1}
        night.report("srl", "srl", after=("data_validation",), seconds=60.0, metrics=curve, config=config)
        sample = {"step": 0, "prompt": HOSTILE, "base": "a", "srl": "b", "candidate": "c" * 300, "champion": "d"}
        evidence = night.report(
            "evaluation",
            "evaluation",
            after=("data_validation", "srl"),
            samples=[{**sample, "faults": ["no-leak"]}, {**sample, "faults": []}],
            files=evaluation_files(failing),
            details={
                "policies": {role: scores(0.2 + 0.2 * i) for i, role in enumerate(("base", "srl", "candidate"))},
                "gains": {"champion": interval(0.3), "base": interval(0.4)},
                "gate": gate(gain_over_champion=(0.28, 0.01)),
                "disagreement": {"base": 0.0, "srl": 0.0, "candidate": 0.125},
            },
        )
        night.report(
            "register_bronze",
            "registration",
            after=("evaluation",),
            inputs={"evidence": evidence},
            details={"name": "npc_dialogue-bronze", "version": 3, "alias": alias}
            | ({"policy_digest": registered} if registered else {}),
        )
        night.report(
            "distill_silver",
            "distillation",
            after=("data_validation", "evaluation"),
            details={
                "policies": {"teacher": scores(0.6), "student": scores(0.5), "champion": scores(0.4)},
                "gain_over_champion": interval(0.1),
                "gate": gate(retention_of_teacher=(0.81, 0.95), gain_over_champion=(0.08, -0.02)),
            },
        )
        night.skip("register_silver", "registration", ("distill_silver",))
        return night.end(Outcome.REGISTERED)

    return make
