"""TRL's GRPOTrainer with what it lacks: dynamic sampling, shared prompts, a KL ceiling. One class, parts in own modules.

TRL 1.16 goes `training_step` -> `_prepare_inputs` -> `_generate_and_score_completions` -> `_generate` ->
`_generate_single_turn`, then `_calculate_rewards`, then `_compute_loss` -> `_get_per_token_logps_and_entropies`; here each
of these, but for the first, is overridden and hands its question to the part that answers it.

Departures from TRL: prompts come from `PromptStream`, a function of seed and position, and not from the data loader, whose
order cannot be resumed; a generation's completions are rolled out and rewarded before TRL's own step begins, which then
finds both ready; micro-batches are made of whole groups.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import split_tensor_dict

from components.shared.contracts.environment import Strategy
from components.shared.training.adapters import bare, drop_reference_adapter, switched_on
from components.shared.training.checkpoints import Checkpoints
from components.shared.training.distributed.trl_spreading import SpreadTrainer
from components.shared.training.exact_resume import ExactResume, Stateful
from components.shared.training.grpo.completion_scoring import (
    CompletionScores,
    ScoreRequest,
    install,
    joined,
    uninstall,
)
from components.shared.training.grpo.group_sampling import Candidate, Group, Rollouts, Row, Sample, fill
from components.shared.training.grpo.kl_guard import KLGuard
from components.shared.training.grpo.prompt_stream import PromptStream
from components.shared.training.grpo.sampler import sample
from components.shared.training.grpo.scoring_check import TOLERANCES, difference
from components.shared.training.grpo.settings import SamplingSettings, Scoring

logger = logging.getLogger(__name__)

FALLBACK = {Scoring.SHARED_PREFIX: Scoring.COMPLETION_HEAD, Scoring.COMPLETION_HEAD: Scoring.STOCK}
CHECKED_GROUPS = 2
"""Groups of the first batch that the self-check of the scoring is made on."""


class PolicyOptimizer(SpreadTrainer, ExactResume, GRPOTrainer):
    """A GRPOTrainer over text prompts, on one process or spread over many, that resumes exactly. Beyond TRL's arguments:

    sampling    which groups an update is made of
    scoring     how log-probabilities are computed; what fails its self-check falls back to the next slower way
    guard       the KL ceiling, if any; it then owns the penalty's coefficient
    hint        a row to use instead of an unsolved prompt (by index), or none where there is no hint
    max_hinted  groups of an update, on each process, that may use one
    """

    args: GRPOConfig
    model: PreTrainedModel
    train_dataset: Dataset
    num_generations: int
    max_completion_length: int
    _scores: CompletionScores
    """Of the latest batch that was scored."""

    def __init__(
        self,
        *,
        sampling: SamplingSettings,
        scoring: Scoring = Scoring.SHARED_PREFIX,
        guard: KLGuard | None = None,
        hint: Callable[[int], Row | None] | None = None,
        max_hinted: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        drop_reference_adapter(self.model)
        self._sampling, self._hint, self._max_hinted = sampling, hint, max_hinted
        self._guard = guard
        if guard is not None:
            self.add_callback(guard)
        explore = sampling.explore if sampling.rounds > 1 else 1.0
        self.stream = PromptStream(rows=len(self.train_dataset), seed=self.args.seed, explore=explore)
        self.scoring = self._possible(scoring)
        self._scoring_checked = False
        self._sample: Sample | None = None
        self._limits: Sequence[int | None] = ()
        if self.ref_model is not None:
            self.ref_model.requires_grad_(False)
        for model in self._scoring_models():
            install(model)

    def _possible(self, scoring: Scoring) -> Scoring:
        """The scoring, or what this set-up allows: a sharded model cannot be differentiated beside its wrapper, as the
        self-check does, and activation checkpointing turns off the cache that a shared prompt is handed over in."""
        if self._sharded:
            return Scoring.STOCK
        if self.args.activation_checkpointing and scoring == Scoring.SHARED_PREFIX:
            return Scoring.COMPLETION_HEAD
        return scoring

    @property
    def _sharded(self) -> bool:
        return self._world.size > 1 and self._strategy == Strategy.FSDP

    def _done_everywhere(self, done: bool) -> bool:
        """Whether generation can end: a sharded model answers only when all processes ask it."""
        return bool(self._world.smallest(done)) if self._sharded else done

    def _scoring_models(self) -> list[PreTrainedModel]:
        return [bare(self.accelerator.unwrap_model(m)) for m in (self.model, self.ref_model) if m is not None]

    def resume_with(self, checkpoints: Checkpoints | None, companions: Mapping[str, Stateful]) -> None:
        """As ExactResume's; the prompt stream and the KL controller come along by themselves."""
        own: dict[str, Stateful] = {"stream": self.stream}
        if self._guard is not None:
            own["kl"] = self._guard.controller
        super().resume_with(checkpoints, {**own, **companions})

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train once. The model comes out with its class's own forward pass."""
        try:
            return super().train(*args, **kwargs)
        finally:
            for model in self._scoring_models():
                uninstall(model)

    # Rollouts

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """As TRL's, but shuffled by groups, so that a micro-batch shares its prompts."""
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        window = self.args.steps_per_generation or 1
        if self._step % (window * self.num_iterations) == 0 or self._buffered_inputs is None:
            rollouts = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = split_tensor_dict(shuffled_groups(rollouts, self.num_generations), window)
        return self._buffered_inputs[self._step % window]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """`inputs` says how many rows are wanted; which prompts they are of is the stream's and the sampling's to say."""
        self._sample = fill(
            self._roll,
            self.stream,
            len(inputs) // self.num_generations,
            self._sampling,
            hint=self._hint,
            max_hinted=self._max_hinted,
            world_size=self.accelerator.num_processes,
            rank=self.accelerator.process_index,
        )
        self._record(self._sample)
        groups = self._sample.groups
        try:
            rollouts = super()._generate_and_score_completions(
                [dict(r.row) for r in self._sample.rollouts for _ in range(self.num_generations)]
            )
        finally:
            self._sample = None
        return self._with_advantages(rollouts, torch.cat([g.totals_G for g in groups]))

    def _with_advantages(self, rollouts: dict[str, Any], totals_B: torch.Tensor) -> dict[str, Any]:
        """The rollouts with TRL's advantages, from each group's z-scores; `totals_B` is each completion's total reward."""
        return rollouts

    def _roll(self, candidates: Sequence[Candidate]) -> list[Group]:
        """Generate and reward this process's share of the candidates; every process learns all rewards."""
        size, world = self.num_generations, self.accelerator.num_processes
        share = len(candidates) // world
        start = self.accelerator.process_index * share
        rows = [c.hint or self.train_dataset[c.prompt] for c in candidates[start : start + share]]
        repeated = [row for row in rows for _ in range(size)]
        prompts = [row["prompt"] for row in repeated]
        self._limits = [row.get("max_tokens") for row in repeated]
        prompt_ids, completion_ids, _, completions, logprobs, *_ = super()._generate(prompts)
        self._limits = ()
        rewards_NF = super()._calculate_rewards(repeated, prompts, completions, completion_ids)
        totals_NG = (rewards_NF * self.reward_weights.to(rewards_NF.device)).nansum(dim=1).view(-1, size)
        groups = [Group(candidate=c, totals_G=t, rollouts=None) for c, t in zip(candidates, totals_NG, strict=True)]
        for i, row in enumerate(rows):
            mine = slice(i * size, (i + 1) * size)
            rollouts = Rollouts(
                row=row,
                prompt_ids=prompt_ids[mine],
                completion_ids=completion_ids[mine],
                completions=completions[mine],
                logprobs=logprobs[mine] if logprobs is not None else None,
                rewards_GF=rewards_NF[start * size :][mine],
            )
            groups[start + i] = Group(candidate=candidates[start + i], totals_G=totals_NG[start + i], rollouts=rollouts)
        return groups

    def _record(self, sample: Sample) -> None:
        values = {
            "reward": sample.mean_reward,
            "kept": sample.useful / sample.rolled,
            "rollouts_per_useful": sample.rolled * self.num_generations / max(1, sample.useful),
            "skipped": sample.skipped,
            "hinted": sample.hinted,
        }
        for name, value in values.items():
            self._metrics["train"][f"sampling/{name}"].append(float(value))

    def _generate(self, prompts: list) -> tuple:
        """What `_roll` generated for the groups that were chosen."""
        if self._sample is None:
            return super()._generate(prompts)
        rollouts = self._sample.rollouts
        prompt_ids, completion_ids, completions = (
            [item for r in rollouts for item in getattr(r, name)]
            for name in ("prompt_ids", "completion_ids", "completions")
        )
        logprobs = [item for r in rollouts for item in r.logprobs or ()] or None
        return prompt_ids, completion_ids, None, completions, logprobs, {}, None, []

    def _calculate_rewards(self, inputs: list, prompts: list, completions: list, completion_ids_list: list):
        """What `_roll` found, gathered over the processes as TRL's are."""
        if self._sample is None:
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        return self.accelerator.gather(torch.cat([r.rewards_GF for r in self._sample.rollouts]))

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        """The group's prompt prefilled once, where transformers generates; then each row cut at its own limit."""
        if self.use_vllm or self.use_transformers_continuous_batching:
            completion_ids, logprobs = super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images
            )
        else:
            completion_ids, logprobs = self._sample_completions(prompt_ids), None
        limits = self._limits or [None] * len(completion_ids)
        completion_ids = [ids[:limit] for ids, limit in zip(completion_ids, limits, strict=True)]
        if logprobs is not None:
            logprobs = [row[: len(ids)] for row, ids in zip(logprobs, completion_ids, strict=True)]
        return completion_ids, logprobs

    def _sample_completions(self, prompt_ids: Sequence[Sequence[int]]) -> list[list[int]]:
        limits = [self.max_completion_length if limit is None else limit for limit in self._limits]
        with (
            unwrap_model_for_generation(
                self.model_wrapped, self.accelerator, gather_deepspeed3_params=self.args.ds3_gather_for_generation
            ) as model,
            torch.no_grad(),
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
        ):
            return sample(
                model,
                prompt_ids,
                max_tokens=max(limits, default=self.max_completion_length),
                temperature=self.temperature,
                end_ids=self.eos_token_ids,
                pad_id=self._tokenizer.pad_token_id,
                everywhere=self._done_everywhere,
            )

    # Log-probabilities and loss

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        if self._guard is not None:
            self.beta = self._guard.controller.beta
        return super()._compute_loss(model, inputs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._guard is not None:
            controller = self._guard.controller
            state = {"kl": self._guard.last_kl, "beta": controller.beta, "refused": controller.refused}
            for name, value in state.items():
                self._metrics["train"][f"guard/{name}"].append(float(value))
        super().log(logs, start_time)

    def _get_per_token_logps_and_entropies(
        self,
        model: torch.nn.Module,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Log-probabilities (B, C) and entropies (B, C) of the completions, by the fastest way that proved equal."""
        if not self._scoring_checked:
            self._scoring_checked = True
            with switched_on(self.accelerator.unwrap_model(self.model)):
                self._check_scoring(input_ids, attention_mask, logits_to_keep)
        if self.scoring == Scoring.STOCK:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **kwargs
            )
        size = batch_size or len(input_ids)
        with self.accelerator.autocast():
            parts = [
                model(
                    input_ids=input_ids[start : start + size],
                    attention_mask=attention_mask[start : start + size],
                    scores=self._request(logits_to_keep, compute_entropy),
                )
                for start in range(0, len(input_ids), size)
            ]
        self._scores = joined(parts)
        return self._scores.logprobs_BC, self._scores.entropies_BC, None

    def _request(self, completion_tokens: int, entropies: bool) -> ScoreRequest:
        return ScoreRequest(
            completion_tokens=completion_tokens,
            temperature=self.temperature,
            share_prompts=self.scoring == Scoring.SHARED_PREFIX,
            entropies=entropies,
        )

    def _check_scoring(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, completion: int) -> None:
        """Compare the configured scoring with TRL's, log-probabilities, entropies and gradients, and fall back if needed."""
        rows = slice(0, CHECKED_GROUPS * self.num_generations)
        ids, attention = input_ids[rows], attention_mask[rows]
        model = self.accelerator.unwrap_model(self.model)
        stock = super()._get_per_token_logps_and_entropies
        tolerance = TOLERANCES.get(model.dtype, TOLERANCES[torch.float32])
        while self.scoring != Scoring.STOCK:
            gap = difference(
                lambda: model(input_ids=ids, attention_mask=attention, scores=self._request(completion, True))[:2],
                lambda: stock(model, ids, attention, completion, compute_entropy=True)[:2],
                model.parameters(),
                attention[:, -completion:].bool(),
            )
            if gap <= tolerance:
                return
            slower = FALLBACK[self.scoring]
            logger.warning("%s scoring differs from TRL's by %.1e: using %s", self.scoring, gap, slower)
            self.scoring = slower


def shuffled_groups(rows: dict[str, Any], group_size: int) -> dict[str, Any]:
    """Tensors over the same rows, permuted alike by whole groups; scalars stay. Draws from torch's global generator."""
    count = len(rows["completion_ids"])
    order = (torch.randperm(count // group_size)[:, None] * group_size + torch.arange(group_size)).flatten()
    return {
        name: value[order.to(value.device)] if isinstance(value, torch.Tensor) and value.ndim else value
        for name, value in rows.items()
    }
