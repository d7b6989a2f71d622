"""What RLVR unlearns while it learns: held-out tasks and texts that it does not reward, before and after."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import torch
from pydantic import JsonValue

from components.shared.contracts.records import Scenario, Trajectory
from components.shared.trainers.base_trainer import ModelTypeTrainer
from components.shared.training.policies import Policy
from components.shared.training.rollouts import complete
from components.shared.training.supervised import chosen, collate, completion_logprobs, example

BATCH = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """What a policy still can."""

    accuracy: float
    """Share of held-out tasks that its greedy answer gets right, by the strict checker."""
    tasks: int
    nll: float | None
    """Nats per token of held-out experts' answers, none where there are no such answers."""
    texts: int


def measure(
    policy: Policy,
    judge: ModelTypeTrainer,
    scenarios: Sequence[Scenario],
    trajectories: Sequence[Trajectory],
    max_tokens: int,
) -> Retention:
    """Measure the policy on held-out scenarios and on experts' trajectories of held-out scenarios."""
    answers = complete(policy, [s.prompt for s in scenarios], max_tokens=max_tokens)
    return Retention(
        accuracy=fmean(judge.check(s, a).correct for s, a in zip(scenarios, answers, strict=True)),
        tasks=len(scenarios),
        nll=nll(policy, trajectories) if trajectories else None,
        texts=len(trajectories),
    )


@torch.no_grad()
def nll(policy: Policy, trajectories: Sequence[Trajectory]) -> float:
    """Mean negative log-likelihood per completion token, in nats."""
    rows = [
        example(policy, t.scenario.prompt, [step.text for step in t.steps], [1.0] * len(t.steps)) for t in trajectories
    ]
    policy.model.eval()
    total = tokens = 0.0
    for start in range(0, len(rows), BATCH):
        batch = collate(rows[start : start + BATCH], policy.tokenizer.pad_token_id).to(policy.model.device)
        total -= (chosen(completion_logprobs(policy.model, batch), batch) * batch.mask_BC).sum().item()
        tokens += batch.mask_BC.sum().item()
    return total / tokens


def forgetting(before: Retention, after: Retention) -> dict[str, JsonValue]:
    """Both measurements, for a report."""
    return {"before": asdict(before), "after": asdict(after)}
