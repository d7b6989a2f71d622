"""A student learns its teacher's distribution: first on the teacher's words, then on its own.

    warm-up     forward KL(teacher || student) on answers collected from production or sampled from the teacher, the
                prompt masked
    on-policy   TRL's DistillationTrainer: the student answers, and a generalised Jensen-Shannon divergence with beta 1/2
                (arXiv 2306.13649) pulls each of its tokens to the teacher

Without the warm-up a weak student never visits what the teacher could correct; without the on-policy part it never learns
to mend its own slips.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset as Rows
from trl import DistillationConfig as TRLConfig
from trl import DistillationTrainer

from components.distillation.spec import DistillationConfig
from components.shared.contracts.environment import Strategy
from components.shared.contracts.records import Scenario
from components.shared.performance.performance_tracker import PerformanceTracker, progress
from components.shared.training.batches import batches
from components.shared.training.checkpoints import Checkpoints
from components.shared.training.distributed.learner import Learner, create_learner
from components.shared.training.distributed.settings import AdamWSettings
from components.shared.training.distributed.world import World
from components.shared.training.divergence import full_kl
from components.shared.training.exact_resume import ExactResume
from components.shared.training.packing import Tokens, can_pack, lay_out, packing, token_logprobs
from components.shared.training.policies import Policy
from components.shared.training.reference_logprobs import ReferenceLogprobs
from components.shared.training.rollouts import complete
from components.shared.training.supervised import example
from components.shared.training.trl_adapter import CurveRecorder, common_arguments, train_quietly

JENSEN_SHANNON = 0.5


def warm_up(
    student: Policy,
    teacher: Policy,
    scenarios: Sequence[Scenario],
    max_tokens: int,
    config: DistillationConfig,
    tracker: PerformanceTracker,
    checkpoints: Checkpoints | None = None,
    served: Mapping[str, str] | None = None,
) -> None:
    """Train `student` in place by forward KL on one answer to each scenario: of `served`, by the scenario's id, else
    sampled from the teacher."""
    checkpoints = checkpoints or Checkpoints(folder=None)
    learner = create_learner(student.model, Strategy.SINGLE, World(), AdamWSettings())
    with checkpoints:
        saved = checkpoints.resume()
        done, answers = 0, None
        if saved is not None:
            done, answers = saved.step, saved.common["answers"]
            learner.restore(saved.common["learner"])
            tracker.restore(saved.common["tracker"])
        answers = answers or answers_to(scenarios, served or {}, teacher, max_tokens, config.temperature)
        rows = [example(student, s.prompt, [a], [1.0]) for s, a in zip(scenarios, answers, strict=True) if a]

        def state() -> dict[str, Any]:
            return {"learner": learner.state(), "tracker": tracker.state(), "answers": answers}

        device, pad_id = student.model.device, student.tokenizer.pad_token_id
        packed = all(can_pack(policy, rows, device) for policy in (teacher, student))
        with packing(student.model, packed), packing(teacher.model, packed):
            target = ReferenceLogprobs(teacher, rows, World(), packed, config.temperature)
            order = islice(batches(len(rows), config.batch_size, config.seed, done), config.warmup_steps - done)
            student.model.train()
            for indices in progress(order, f"warm-up {config.tier}", total=config.warmup_steps, done=done):
                tokens = lay_out([rows[i] for i in indices], pad_id, device, packed=packed)
                tracker.log(done, **match_teacher(learner, tokens, target.of(indices, tokens), config, done))
                done += 1
                checkpoints.after_step(done, state)
        checkpoints.save(done, state)


def answers_to(
    scenarios: Sequence[Scenario], served: Mapping[str, str], teacher: Policy, max_tokens: int, temperature: float
) -> list[str]:
    """The answer that was served to each scenario, and the teacher's own where none was."""
    unasked = [s.prompt for s in scenarios if s.id not in served]
    sampled = iter(complete(teacher, unasked, max_tokens=max_tokens, temperature=temperature) if unasked else ())
    return [served[s.id] if s.id in served else next(sampled) for s in scenarios]


def match_teacher(
    learner: Learner, tokens: Tokens, target_TV: torch.Tensor, config: DistillationConfig, step: int
) -> dict[str, float]:
    """One update by forward KL to the teacher's log-probabilities; returns what it measured before the update."""
    loss = full_kl(target_TV, token_logprobs(learner.model, tokens, config.temperature)).mean()
    rate = config.learning_rate * min(1.0, (step + 1) / 20) * (1 - 0.6 * step / config.warmup_steps)
    return {"forward_kl": loss.item(), "grad_norm": learner.step(loss, rate)}


class OnPolicyTrainer(ExactResume, DistillationTrainer):
    """TRL's trainer, resumed bit for bit."""


def on_policy(
    student: Policy,
    teacher: Policy,
    scenarios: Sequence[Scenario],
    max_tokens: int,
    config: DistillationConfig,
    tracker: PerformanceTracker,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Train `student` in place on its own answers."""
    if config.onpolicy_steps == 0:
        return
    recorder = CurveRecorder(
        tracker, f"on-policy {config.tier}", config.onpolicy_steps, {"loss": "onpolicy_divergence"}, config.warmup_steps
    )
    with TemporaryDirectory() as scratch:
        settings = TRLConfig(
            **common_arguments(scratch, config.onpolicy_steps, config.seed),
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            lr_scheduler_type="linear",
            weight_decay=0.01,
            adam_beta2=0.98,
            max_completion_length=max_tokens,
            temperature=config.temperature,
            beta=JENSEN_SHANNON,
        )
        trainer = OnPolicyTrainer(
            model=student.model,
            teacher_model=teacher.model,
            args=settings,
            train_dataset=Rows.from_list([{"prompt": s.prompt} for s in scenarios]),
            processing_class=student.tokenizer,
            callbacks=[recorder],
        )
        trainer.resume_with(checkpoints, {"tracker": tracker, "recorder": recorder})
        train_quietly(trainer)
