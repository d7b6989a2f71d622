"""What every TRL trainer of ours is told alike, and how its logs reach our curves."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState

from components.shared.performance.performance_tracker import PerformanceTracker, progress

# TRL 1.16 reads an attribute that transformers 5.23 renamed; nothing a user could do about it.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def common_arguments(scratch: str, steps: int, seed: int) -> dict[str, Any]:
    """Arguments of any TRL configuration: no reports or checkpoints of its own, a log line every update.

    bf16 and activation checkpointing are TRL's defaults, made for GPUs; they only cost time on a CPU.
    """
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": scratch,
        "max_steps": steps,
        "seed": seed,
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "activation_checkpointing": on_gpu,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
    }


class CurveRecorder(TrainerCallback):
    """Hands a trainer's logs to the tracker under our names and advances the progress display."""

    def __init__(
        self, tracker: PerformanceTracker, what: str, steps: int, names: Mapping[str, str], first_step: int = 0
    ):
        """`names` maps TRL's names to ours; a log line that lacks the first of them is not an update's."""
        self._tracker = tracker
        self._names = names
        self._key = next(iter(names))
        self._first_step = first_step
        self._bar = iter(progress(range(steps), what))
        self.curves: list[dict[str, float]] = []
        next(self._bar)

    def state(self) -> list[dict[str, float]]:
        return self.curves

    def restore(self, state: list[dict[str, float]]) -> None:
        self.curves = state
        for _ in state:
            next(self._bar, None)

    def on_log(
        self,
        args: object,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        if logs and self._key in logs:
            values = {ours: float(logs[theirs]) for theirs, ours in self._names.items() if theirs in logs}
            self.curves.append(values)
            self._tracker.log(self._first_step + state.global_step, **values)
            next(self._bar, None)


def train_quietly(trainer: Trainer) -> None:
    """Train without the lines that transformers prints when it has no progress bar."""
    trainer.remove_callback(PrinterCallback)
    trainer.train()
