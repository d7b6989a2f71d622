"""No accepted update takes the policy as far as the KL ceiling: what does is undone and tried again with half the step.

The KL is exact over the vocabulary, a mean per completion token, measured after each update on a fixed probe: held-out
prompts, answered once by the reference. The gradients are still there when an update is refused, so the retry is the same
update, smaller.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from components.shared.training.divergence import full_kl
from components.shared.training.grpo.settings import KLSettings
from components.shared.training.kl_controller import KLController
from components.shared.training.policies import Policy
from components.shared.training.rollouts import complete
from components.shared.training.snapshots import Snapshot
from components.shared.training.supervised import collate, completion_logprobs, example, masked_mean


class KLProbe:
    """The fixed probe, and the reference's log-probabilities on it; the reference itself is not kept."""

    def __init__(self, reference: Policy, prompts: Sequence[str], max_tokens: int):
        """`prompts` are held out; `max_tokens` limits the reference's greedy answers to them."""
        answers = complete(reference, prompts, max_tokens=max_tokens)
        rows = [example(reference, p, [answer], [1.0]) for p, answer in zip(prompts, answers, strict=True)]
        self._batch = collate(rows, reference.tokenizer.pad_token_id).to(reference.model.device)
        with torch.no_grad():
            self._reference_BCV = completion_logprobs(reference.model.eval(), self._batch)

    @torch.no_grad()
    def measure(self, model: torch.nn.Module) -> float:
        """Mean KL of the model to the reference, nats per token."""
        training = model.training
        logprobs_BCV = completion_logprobs(model.eval(), self._batch)
        model.train(training)
        return masked_mean(full_kl(logprobs_BCV, self._reference_BCV), self._batch.mask_BC).item()


class KLGuard(TrainerCallback):
    """Judges every optimiser step of a transformers Trainer by the probe, and steers the penalty's coefficient."""

    _snapshot: Snapshot

    def __init__(self, probe: KLProbe, settings: KLSettings, beta: float):
        """`beta` is the coefficient's start and floor; at 0 there is a ceiling but no penalty."""
        self._probe = probe
        self.last_kl = 0.0
        self.controller = KLController(
            beta=beta,
            beta_floor=beta,
            target_nats_per_token=settings.target,
            ceiling_nats_per_token=settings.ceiling,
            patience=settings.patience,
        )

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        self._snapshot = Snapshot.take(kwargs["model"], kwargs["optimizer"])
        self._scale(kwargs["optimizer"], self.controller.step_scale)

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        while not self.controller.accept(self._measure(model)):
            self._snapshot.put_back(model, optimizer)
            if self.controller.exhausted:
                control.should_training_stop = True
                break
            self._scale(optimizer, self.controller.step_scale)
            optimizer.step()

    def _measure(self, model: torch.nn.Module) -> float:
        self.last_kl = self._probe.measure(model)
        return self.last_kl

    @staticmethod
    def _scale(optimizer: torch.optim.Optimizer, factor: float) -> None:
        """Shrink this step's learning rate; the scheduler sets the next step's anew, and the snapshot holds it as it was."""
        for group in optimizer.param_groups:
            group["lr"] *= factor
