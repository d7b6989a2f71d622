"""CPU seconds to a fixed held-out score: SRL -> RLVR here against SFT -> GRPO by TRL's own trainers.

    python -m benchmarks.training.cpu_to_reward

Both start from the same base policy with the same data, and the clock stops at the first look, one every EVERY updates, at
which greedy answers to held-out scenarios (the validation split) score GOAL by the strict checker, which neither is
rewarded by. SFT may use as many seconds as SRL did, at the learning rate that benchmarks/learning/search.py found best, and
GRPO has RLVR's settings: prompts, group, learning rate, KL penalty, reward. TRL's flags are the best for a CPU: float32, no
activation checkpointing, SFT's rows sorted by length.

The peer's looks are taken off its time; ours, and the watch, the KL probe and the undoing beside them, are left in. Seeds
are none that the configuration was chosen on.
"""

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset as Rows
from transformers import TrainerCallback
from trl import GRPOTrainer

from benchmarks.learning import sft
from benchmarks.learning.bench import SFT_RATE, Bench
from benchmarks.learning.plan import Job
from benchmarks.measures import Measure, mean, publish, ratio
from components.rlvr import rlvr_trainer
from components.rlvr.hints import scenario_row
from components.rlvr.spec import RLVRConfig
from components.shared.contracts.environment import Strategy
from components.shared.contracts.records import Scenario, Split
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.training.adapters import opened
from components.shared.training.datasets import Dataset
from components.shared.training.distributed.world import World
from components.shared.training.policies import deterministic, load_policy, save_policy
from components.shared.training.trl_adapter import train_quietly
from components.shared.training.validation_callback import Score, held_out
from components.srl.run import run as run_srl
from components.srl.spec import SRLConfig

MODEL_TYPE, SEEDS = "npc_dialogue", (201, 202, 203)
GOAL, EVERY = 0.75, 5
MOST_UPDATES = 300
"""Updates of GRPO after which it is given up."""
TARGET = 1 / 3


class TimedTracker(PerformanceTracker):
    """A tracker that knows when the process had used how many CPU seconds at each validation score."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.looks: list[tuple[float, float]] = []

    def log(self, step: int, **values: float) -> None:
        super().log(step, **values)
        if "validation_score" in values:
            self.looks.append((time.process_time(), values["validation_score"]))


class StopAtGoal(TrainerCallback):
    """Looks every EVERY updates, and ends training at the goal; `looking` is what the looks cost."""

    def __init__(self, score: Score):
        self._score = score
        self.looking, self.reached = 0.0, False

    def on_step_end(self, args, state, control, **_):
        if state.global_step % EVERY == 0:
            began = time.process_time()
            score = mean(self._score())
            print(f"GRPO, update {state.global_step}: {score:.3f}", flush=True)
            self.reached = score >= GOAL
            self.looking += time.process_time() - began
            control.should_training_stop |= self.reached


def ours(folder: Path, base: Path, data: Path, configs: Mapping[str, Any]) -> tuple[float, float]:
    """CPU seconds of SRL, and of RLVR after it until the goal."""
    inputs, outputs = {"dataset": data, "policy": base}, {n: folder / f"srl-{n}" for n in ("policy", "report")}
    for output in outputs.values():
        output.mkdir(parents=True)
    began = time.process_time()
    run_srl(SRLConfig(**configs["srl"]), inputs, outputs)
    trained = time.process_time()
    policy, reference = opened(outputs["policy"], None, Strategy.SINGLE, World())
    dataset, tracker = Dataset.open(data), TimedTracker(folder / "rlvr")
    config = RLVRConfig(**configs["rlvr"] | {"validation": configs["rlvr"]["validation"] | {"every": EVERY}})
    deterministic(config.seed)
    scenarios = list(dataset.scenarios(Split.TRAIN))
    rlvr_trainer.train(policy, reference, outputs["policy"], dataset, scenarios, config, tracker)
    reached = [at for at, score in tracker.looks if score >= GOAL]
    if not reached:
        raise SystemExit(f"RLVR did not reach {GOAL} in {config.steps} updates: {tracker.looks[-1][1]:.3f}")
    return trained - began, reached[0] - trained


def theirs(folder: Path, base: Path, data: Path, configs: Mapping[str, Any], seconds: float) -> tuple[float, bool]:
    """CPU seconds of SFT for `seconds` and of GRPO after it until the goal, and whether that was reached."""
    config = RLVRConfig(**configs["rlvr"] | {"steps": MOST_UPDATES})
    dataset, tuned = Dataset.open(data), folder / "sft"
    tuned.mkdir()
    deterministic(config.seed)
    policy = load_policy(base)
    began = time.process_time()
    rows, scratch = sft.rows(policy, dataset), str(folder / "trl")
    sft.train(policy, rows, seconds=seconds, rate=SFT_RATE, seed=config.seed, scratch=scratch, began=began)
    save_policy(policy, tuned)
    policy = load_policy(tuned)
    policy.model.name_or_path = policy.model.config._name_or_path = str(tuned)
    scenarios: list[Scenario] = list(dataset.scenarios(Split.TRAIN))
    looked_at = list(dataset.scenarios(Split.VALIDATION))[: config.validation.scenarios]
    max_tokens = dataset.max_tokens(policy.tokenizer)
    stop = StopAtGoal(held_out(policy, dataset.trainer, looked_at, max_tokens))
    trainer = GRPOTrainer(
        model=policy.model,
        reward_funcs=[rlvr_trainer.Outcome(dataset, scenarios)],
        args=rlvr_trainer.trl_arguments(config, max_tokens, scratch),
        train_dataset=Rows.from_list([dict(scenario_row(s, i)) for i, s in enumerate(scenarios)]),
        processing_class=policy.tokenizer,
        callbacks=[stop],
    )
    train_quietly(trainer)
    return time.process_time() - began - stop.looking, stop.reached


def main() -> int:
    found: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(results=Path(scratch) / "results", work=Path(scratch) / "work")
        for seed in SEEDS:
            job, folder = Job(MODEL_TYPE, seed, "srl_rlvr"), Path(scratch) / str(seed)
            bench.make_dataset(job)
            base, data = bench.base(job), bench.dataset(job)
            configs = {stage: bench.stage_config(job, stage) for stage in ("srl", "rlvr")}
            supervised, rewarded = ours(folder, base, data, configs)
            peer, reached = theirs(folder, base, data, configs, supervised)
            found.append((supervised + rewarded, peer))
            print(
                f"seed {seed}: SRL {supervised:.1f} s, RLVR {rewarded:.1f} s, SFT and GRPO {peer:.1f} s, CPU",
                flush=True,
            )
            if not reached:
                raise SystemExit(f"GRPO did not reach {GOAL} in {MOST_UPDATES} updates: its time is not known")
    here, there = zip(*found, strict=True)
    return publish(
        Measure(
            name=f"SRL and RLVR to a held-out score of {GOAL}, against SFT and GRPO",
            unit="s",
            ours=mean(here),
            peer=mean(there),
            peer_name="SFTTrainer, GRPOTrainer",
            ratio=ratio(here, there),
            at_most=TARGET,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
