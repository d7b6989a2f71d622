"""Kill a stage at random moments with SIGKILL, start it again until it ends, and compare with an undisturbed run.

Every attempt is a process of its own, forked from one that has loaded the libraries. scripts/ must be on the path.
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

import torch
from build_local_models import build_model, build_tokenizer

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
from components.shared.training.policies import Policy, deterministic, load_policy, save_policy
from components.shared.training.supervised import chosen, collate, completion_logprobs, example, masked_mean

CONFIGS = {
    "srl": {
        "steps": 14,
        "batch_size": 8,
        "learning_rate": 5e-3,
        "warmup_steps": 2,
        "validation": {"every": 4, "scenarios": 8},
    },
    "rlvr": {
        "steps": 8,
        "prompts_per_step": 4,
        "group_size": 4,
        "updates_per_rollout": 2,
        "iterations": 2,
        "learning_rate": 5e-3,
        "temperature": 1.5,
        "sampling": {"rounds": 2},
        "hints": {"max_share": 0.5},
        "watch": {"every": 3, "prompts": 4},
        "validation": {"every": 2, "scenarios": 8, "patience": 3},
    },
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
    taught(folder, "pupil")


def taught(folder: Path, name: str) -> None:
    """The teacher, once it has read the trajectories: a policy that some prompts reward and others do not."""
    policy, rows = load_policy(folder / "teacher"), Dataset.open(folder / "dataset").trajectories(Split.TRAIN)
    examples = [example(policy, t.scenario.prompt, [s.text for s in t.steps], [1.0] * len(t.steps)) for t in rows]
    batch, optimizer = collate(examples, 0), torch.optim.AdamW(policy.model.parameters(), lr=2e-2)
    for _ in range(60):
        loss = -masked_mean(chosen(completion_logprobs(policy.model, batch), batch), batch.mask_BC)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    (folder / name).mkdir()
    save_policy(policy, folder / name)
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


def rlvr(folder: Path, outputs: Path) -> None:
    """The stage, whole: dynamic sampling, KL guard, watch and validation loop; a checkpoint may fall between two updates
    of one generation."""
    inputs = {"dataset": folder / "dataset", "policy": folder / "pupil"}
    targets = {name: outputs / name for name in ("policy", "report")}
    execute(Request(spec=spec_of("rlvr"), config=CONFIGS["rlvr"], inputs=inputs, outputs=targets))


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


def campaign(folder: Path, stage: str, wanted: int, seed: str, counted: Path) -> None:
    """Run the stage again and again until it was killed so often; writes, as JSON, how often what happened, and how many
    runs came out equal."""
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
    counted.write_text(json.dumps(counts))
