"""PPO (arXiv 1707.06347) on TRL's GRPOTrainer: per-token advantages from a learned value function, token by token.

TRL's step, its clipping, entropy bonus and KL penalty stay; what is added is a linear value head on the policy's last
hidden states, advantages by GAE (arXiv 1506.02438), and a clipped value loss:

    loss = clipped surrogate - entropy weight * entropy + beta * KL + value weight * value loss
    value loss = 1/2 mean max((v - R)^2, (clip(v, v_old +- value clip) - R)^2)

Advantages and the returns R that the head learns have a lambda each (decoupled, VC-PPO, arXiv 2503.01491): with 1 the head
learns the undiscounted outcome, free of its own bias. Before the policy moves, the head is trained by itself.

The head is a submodule of the model while training, so that gradients are cleared, clipped and reduced with the rest;
`detached` takes it off, and the policy that is saved has none.

Axes: B rows, C completion tokens.
"""

from dataclasses import replace
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from components.rlvr.spec import PPOSettings
from components.shared.contracts.errors import PipelineError
from components.shared.training.grpo.completion_scoring import ScoreRequest
from components.shared.training.grpo.policy_optimizer import PolicyOptimizer
from components.shared.training.grpo.settings import Scoring

ADVANTAGE_EPSILON = 1e-8


def attach_value_head(model: PreTrainedModel) -> None:
    """Put a value head on the model: linear, zero at first, so that training starts from the policy as it is."""
    head = torch.nn.Linear(model.config.get_text_config().hidden_size, 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    model.value_head = head.to(model.device)


def detach_value_head(model: PreTrainedModel) -> torch.nn.Linear:
    """Take the value head off and return it."""
    head = value_head(model)
    del model.value_head
    return head


def value_head(model: PreTrainedModel) -> torch.nn.Linear:
    """The model's value head."""
    return cast(torch.nn.Linear, model.get_submodule("value_head"))


def gae(
    rewards_BC: torch.Tensor, values_BC: torch.Tensor, mask_BC: torch.Tensor, gamma: float, lambda_: float
) -> torch.Tensor:
    """Generalised advantage estimates (B, C): A_t = d_t + gamma lambda A_{t+1}, d_t = r_t + gamma V_{t+1} - V_t.

    Completions end where their mask ends; nothing follows them.
    """
    advantages_BC = torch.zeros_like(rewards_BC)
    advantage_B = next_value_B = torch.zeros_like(rewards_BC[:, 0])
    for t in reversed(range(rewards_BC.shape[1])):
        delta_B = rewards_BC[:, t] + gamma * next_value_B - values_BC[:, t]
        advantage_B = (delta_B + gamma * lambda_ * advantage_B) * mask_BC[:, t]
        next_value_B = values_BC[:, t] * mask_BC[:, t]
        advantages_BC[:, t] = advantage_B
    return advantages_BC


def outcome_rewards(totals_B: torch.Tensor, mask_BC: torch.Tensor) -> torch.Tensor:
    """Rewards per token (B, C): the outcome on each completion's last token, 0 elsewhere."""
    rewards_BC = torch.zeros_like(mask_BC)
    last_B = (mask_BC.sum(-1).long() - 1).clamp(min=0)
    rows = torch.arange(len(totals_B), device=totals_B.device)
    rewards_BC[rows, last_B] = totals_B.to(mask_BC.dtype) * mask_BC[rows, last_B]
    return rewards_BC


def whitened(values_BC: torch.Tensor, mask_BC: torch.Tensor) -> torch.Tensor:
    """Values with mean 0 and deviation 1 over the masked tokens."""
    count = mask_BC.sum()
    centred_BC = (values_BC - (values_BC * mask_BC).sum() / count) * mask_BC
    return centred_BC / (centred_BC.square().sum() / count).sqrt().clamp(min=ADVANTAGE_EPSILON)


def value_loss(
    values_BC: torch.Tensor, old_BC: torch.Tensor, returns_BC: torch.Tensor, mask_BC: torch.Tensor, clip: float
) -> torch.Tensor:
    """Half the mean squared error, pessimistic against values that moved more than `clip`."""
    clipped_BC = old_BC + (values_BC - old_BC).clamp(-clip, clip)
    error_BC = torch.max((values_BC - returns_BC).square(), (clipped_BC - returns_BC).square())
    return 0.5 * (error_BC * mask_BC).sum() / mask_BC.sum().clamp(min=1)


class PPOTrainer(PolicyOptimizer):
    """A PolicyOptimizer whose model carries a value head (`attach_value_head` before, `detach_value_head` after)."""

    def __init__(self, *, ppo: PPOSettings, **kwargs: Any):
        super().__init__(**kwargs)
        self._ppo = ppo
        if self.scoring == Scoring.STOCK:
            raise PipelineError(
                "ppo needs the hidden states of an unsharded model: use strategy single or ddp, or grpo"
            )

    @property
    def warming_up(self) -> bool:
        """Whether only the value head is trained."""
        return self.state.global_step < self._ppo.value_warmup_steps

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """TRL's, with a learning rate of its own for the value head."""
        if self.optimizer is not None:
            return self.optimizer
        optimizer = super().create_optimizer(model)
        head = list(value_head(self._scoring_models()[0]).parameters())
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if all(p is not q for q in head)]
        optimizer.add_param_group({"params": head, "lr": self._ppo.value_learning_rate, "weight_decay": 0.0})
        return optimizer

    def _request(self, completion_tokens: int, entropies: bool) -> ScoreRequest:
        return replace(super()._request(completion_tokens, entropies), detach_values=self.warming_up)

    def _with_advantages(self, rollouts: dict[str, Any], totals_B: torch.Tensor) -> dict[str, Any]:
        """The rollouts with advantages, returns and old values per token (B, C) in place of TRL's advantages (B,)."""
        mask_BC = rollouts["completion_mask"].float()
        old_BC = self._values(rollouts)
        rewards_BC = outcome_rewards(totals_B, mask_BC)
        ppo = self._ppo
        advantages_BC = gae(rewards_BC, old_BC, mask_BC, ppo.gamma, ppo.policy_lambda)
        returns_BC = (gae(rewards_BC, old_BC, mask_BC, ppo.gamma, ppo.value_lambda) + old_BC) * mask_BC
        self._metrics["train"]["ppo/explained_variance"].append(explained_variance(old_BC, returns_BC, mask_BC))
        return rollouts | {
            "advantages": whitened(advantages_BC, mask_BC) if ppo.whiten else advantages_BC,
            "returns": returns_BC,
            "old_values": old_BC,
        }

    @torch.no_grad()
    def _values(self, rollouts: dict[str, Any]) -> torch.Tensor:
        ids_BL = torch.cat([rollouts["prompt_ids"], rollouts["completion_ids"]], dim=1)
        attention_BL = torch.cat([rollouts["prompt_mask"], rollouts["completion_mask"]], dim=1)
        size = self.args.per_device_train_batch_size
        completion = rollouts["completion_ids"].shape[1]
        self._get_per_token_logps_and_entropies(self.model, ids_BL, attention_BL, completion, batch_size=size)
        return self._last_values()

    def _last_values(self) -> torch.Tensor:
        if self._scores.values_BC is None:
            raise PipelineError("ppo: the model has no value head: call attach_value_head before training")
        return self._scores.values_BC

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        policy_loss = super()._compute_loss(model, inputs)
        mask_BC = inputs["completion_mask"].float()
        ppo = self._ppo
        loss = value_loss(self._last_values(), inputs["old_values"], inputs["returns"], mask_BC, ppo.value_clip)
        self._metrics["train"]["ppo/value_loss"].append(loss.item())
        loss = ppo.value_weight * loss / self.current_gradient_accumulation_steps
        return loss if self.warming_up else policy_loss + loss


def explained_variance(values_BC: torch.Tensor, returns_BC: torch.Tensor, mask_BC: torch.Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over the masked tokens: 1 for a perfect value function, 0 for a constant."""
    kept = mask_BC.bool()
    spread = returns_BC[kept].var(correction=0)
    return (1 - (returns_BC - values_BC)[kept].var(correction=0) / spread.clamp(min=ADVANTAGE_EPSILON)).item()
