"""Kill a stage at random moments with SIGKILL, start it again until it ends, and compare with an undisturbed run.

    python kill_driver.py FOLDER srl|rlvr|distillation KILLS SEED
    python kill_driver.py FOLDER                                     only makes the folder's data set and policies

Every attempt is a process of its own; the libraries are loaded once, before they fork. Prints what happened as JSON.
scripts/ must be on PYTHONPATH.
"""

import json
import os
import random
import select
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from build_local_models import build_model, build_tokenizer
from datasets import Dataset as Rows
from trl import GRPOConfig, GRPOTrainer

from components.catalogue import spec_of
from components.distillation.distillation_pipeline import on_policy, warm_up
from components.distillation.spec import DistillationConfig
from components.entrypoints.execution import Request, execute
from components.shared.contracts.environment import CHECKPOINT_STEPS, CHECKPOINTS
from components.shared.contracts.records import Split
from components.shared.contracts.stage import ArtifactKind
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.storage.artifacts import MANIFEST, read_manifest, seal, whole
from components.shared.storage.jsonl import write_jsonl
from components.shared.trainers.base_trainer import Habits
from components.shared.trainers.trainer_factory import create_trainer
from components.shared.training.checkpoints import Checkpoints
from components.shared.training.datasets import Dataset, origin
from components.shared.training.distributed.world import World
from components.shared.training.exact_resume import ExactResume
from components.shared.training.policies import Policy, deterministic, load_policy, save_policy
from components.shared.training.trl_adapter import CurveRecorder, common_arguments, train_quietly

CONFIGS = {
    "srl": {"steps": 14, "batch_size": 8, "learning_rate": 5e-3, "warmup_steps": 2},
    "distillation": {"warmup_steps": 8, "onpolicy_steps": 6, "batch_size": 4, "learning_rate": 5e-3},
}


def prepare(folder: Path) -> None:
    """A small sealed dataset with sound and unsound steps, and a teacher and a student that fit it."""
    trainer, rng, dataset = create_trainer("npc_dialogue", "wrackmere"), random.Random(0), folder / "dataset"
    for split, count in ((Split.TRAIN, 40), (Split.VALIDATION, 8), (Split.TEST, 12)):
        scenarios = list(trainer.scenarios(rng, count, [split]))
        write_jsonl(dataset / "scenarios" / f"{split}.jsonl", scenarios)
        answers = [(s, trainer.demonstrate(s, rng, Habits(visible=0.8, hidden=0.5, noise=0.1))) for s in scenarios]
        rows = [trainer.trajectory(s, answer, teacher="toy", context=(), attempt=1) for s, answer in answers]
        write_jsonl(dataset / f"{split}.jsonl", rows if split != Split.TEST else [])
    seal(dataset, ArtifactKind.DATASET, origin(trainer, "wrackmere"))
    tokenizer = build_tokenizer([trainer])
    for index, name in enumerate(("teacher", "student")):
        deterministic(index)
        (folder / name).mkdir()
        save_policy(Policy(model=build_model(16, tokenizer), tokenizer=tokenizer), folder / name)
        seal(folder / name, ArtifactKind.POLICY)


def srl(folder: Path, outputs: Path) -> None:
    """The stage, whole."""
    inputs = {"dataset": folder / "dataset", "policy": folder / "teacher"}
    targets = {name: outputs / name for name in ("policy", "report")}
    execute(Request(spec=spec_of("srl"), config=CONFIGS["srl"], inputs=inputs, outputs=targets))


def distil(folder: Path, outputs: Path) -> None:
    """The stage's training; its gate would refuse a teacher that has learned nothing."""
    spec, config = spec_of("distillation"), DistillationConfig(**CONFIGS["distillation"])
    deterministic(config.seed)
    names = {"dataset": "dataset", "teacher": "teacher", "student": "student", "champion": "student"}
    inputs = {name: folder / path for name, path in names.items()}
    teacher, student = load_policy(inputs["teacher"]), load_policy(inputs["student"])
    scenarios = list(Dataset.open(inputs["dataset"]).scenarios(Split.TRAIN))[:24]
    with whole(outputs / "policy") as policy, whole(outputs / "report") as report:
        tracker = PerformanceTracker(report)
        for part, train in (("warm-up", warm_up), ("on-policy", on_policy)):
            checkpoints = Checkpoints.of_stage(spec, config, inputs, World(), part=part)
            train(student, teacher, scenarios, 12, config, tracker, checkpoints)
        save_policy(student, policy)
        seal(policy, ArtifactKind.POLICY)
        seal(report, ArtifactKind.REPORT)


class ExactGRPOTrainer(ExactResume, GRPOTrainer):
    """TRL's trainer as it comes, with a coefficient that wanders, as an adaptive one does."""

    def training_step(self, *args, **kwargs):
        self.beta *= 1 + 0.01 * float(torch.rand(()))
        return super().training_step(*args, **kwargs)


def rlvr(folder: Path, outputs: Path) -> None:
    """Reinforcement learning over three epochs; a checkpoint may fall between two updates of one generation."""
    deterministic(0)
    policy = load_policy(folder / "teacher")
    policy.model.name_or_path = policy.model.config._name_or_path = str(folder / "teacher")
    policy.model.config.attention_dropout = 0.1
    scenarios = list(Dataset.open(folder / "dataset").scenarios(Split.TRAIN))[:6]
    with whole(outputs / "policy") as trained, whole(outputs / "report") as report, TemporaryDirectory() as scratch:
        tracker = PerformanceTracker(report)
        recorder = CurveRecorder(tracker, "rlvr", 9, {"loss": "loss", "reward": "reward", "kl": "kl"})
        trainer = ExactGRPOTrainer(
            model=policy.model,
            reward_funcs=lambda completions, **_: [len(set(text.split())) / 12 for text in completions],
            args=GRPOConfig(
                **common_arguments(scratch, 9, 3),
                per_device_train_batch_size=4,
                steps_per_generation=2,
                num_iterations=2,
                num_generations=4,
                max_completion_length=12,
                learning_rate=5e-3,
                beta=0.05,
            ),
            train_dataset=Rows.from_list([{"prompt": s.prompt} for s in scenarios]),
            processing_class=policy.tokenizer,
            callbacks=[recorder],
        )
        found = os.environ.get(CHECKPOINTS)
        checkpoints = Checkpoints(folder=Path(found) if found else None, every_steps=1)
        trainer.resume_with(checkpoints, {"tracker": tracker, "recorder": recorder})
        train_quietly(trainer)
        save_policy(policy, trained)
        seal(trained, ArtifactKind.POLICY, {"beta": trainer.beta})
        seal(report, ArtifactKind.REPORT)


STAGES = {"srl": srl, "distillation": distil, "rlvr": rlvr}


def attempt(stage: str, folder: Path, outputs: Path, checkpoints: Path | None) -> int:
    """Fork a process that runs the stage; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if checkpoints is not None:
            os.environ.update({CHECKPOINTS: str(checkpoints), CHECKPOINT_STEPS: "1"})
        sys.stderr = (folder / "log").open("a")
        STAGES[stage](folder, outputs)
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def finish(pid: int, seconds: float | None) -> int | None:
    """Wait so long for a process; its exit code, or none where it is still at work."""
    handle = os.pidfd_open(pid)
    try:
        ready, _, _ = select.select([handle], [], [], seconds)
    finally:
        os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if ready else None


def run_under_fire(start: Callable[[], int], checkpoints: Path, rng: random.Random, longest: float) -> Counter[str]:
    """Start until it ends by itself; counts kills, those while a checkpoint was written, and resumes from one."""
    counts: Counter[str] = Counter()
    while True:
        pid = start()
        code = finish(pid, rng.uniform(0, longest))
        if code is None:
            os.kill(pid, signal.SIGKILL)
            code = finish(pid, None)
        if code != -signal.SIGKILL:
            assert code == 0, f"exit code {code}: see the log"
            return counts
        counts["kills"] += 1
        counts["saving"] += any(checkpoints.rglob("*.partial"))
        counts["resumes"] += any(checkpoints.rglob(MANIFEST))


def digests(outputs: Path) -> dict[str, str]:
    return {
        path.name: read_manifest(path).digest for path in sorted(outputs.iterdir()) if not path.name.startswith(".")
    }


def campaign(folder: Path, stage: str, wanted: int, seed: str) -> Counter[str]:
    """Run the stage again and again until it was killed so often; counts what happened and the runs that came out equal."""
    began = time.monotonic()
    assert finish(attempt(stage, folder, folder / f"{stage}-undisturbed", None), None) == 0, "see the log"
    longest = time.monotonic() - began
    expected = digests(folder / f"{stage}-undisturbed")
    outputs, checkpoints = folder / f"{stage}-outputs", folder / f"{stage}-checkpoints"
    rng, counts = random.Random(seed), Counter[str]()
    while counts["kills"] < wanted:
        for path in (outputs, checkpoints):
            shutil.rmtree(path, ignore_errors=True)
        counts += run_under_fire(lambda: attempt(stage, folder, outputs, checkpoints), checkpoints, rng, longest)
        counts["runs"] += 1
        counts["equal"] += digests(outputs) == expected
    return counts


if __name__ == "__main__":
    workspace = Path(sys.argv[1])
    if not (workspace / "student").exists():
        prepare(workspace)
    if len(sys.argv) > 2:
        print(json.dumps(campaign(workspace, sys.argv[2], int(sys.argv[3]), sys.argv[4])))
