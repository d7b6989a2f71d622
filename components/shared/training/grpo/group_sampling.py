"""Fills an update with groups whose rewards differ: a group of equal rewards has no advantage and teaches nothing.

DAPO's dynamic sampling (arXiv 2503.14476, section 3.2) under a budget of rounds. A prompt that nobody solves may be tried
once more with a hint (POPE, Scaf-GRPO): the start of an expert's answer, put into the prompt, so that no gradient reaches
it. What the budget leaves open is filled with useless groups, whose advantage is zero.

Every process of a distributed run makes the same decisions from the same gathered rewards, and holds its own groups'
rollouts only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from components.shared.training.grpo.prompt_stream import PromptStream
from components.shared.training.grpo.settings import SamplingSettings

Row = Mapping[str, Any]
"""A row of the training set: `prompt`, what the reward function wants, and `max_tokens` where the row has its own limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollouts:
    """What one process generated for one prompt; lists hold a completion each."""

    row: Row
    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    completions: list[str]
    logprobs: list[list[float]] | None
    """The sampler's own, where it gives them."""
    rewards_GF: torch.Tensor
    """A column a reward function."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A prompt about to be rolled out."""

    prompt: int
    """Index in the training set."""
    hint: Row | None = None
    """The row to use in the prompt's place, where it gets a hint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A rolled out candidate as every process sees it."""

    candidate: Candidate
    totals_G: torch.Tensor
    """Total reward of each completion."""
    rollouts: Rollouts | None
    """None on the processes that did not generate it."""

    def useful(self, min_std: float) -> bool:
        """Whether its rewards differ enough to learn from."""
        return self.totals_G.std().item() > min_std

    @property
    def unsolved(self) -> bool:
        """Whether no completion got any reward."""
        return bool((self.totals_G == 0).all())


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """An update's groups, and what finding them took (all processes together)."""

    groups: list[Group]
    """This process's."""
    rollouts: list[Rollouts]
    """Of these groups, in order."""
    rolled: int
    useful: int
    """Useful groups among those used."""
    skipped: int
    """Prompts passed over as predicted dead."""
    hinted: int
    """Used groups that had a hint."""
    mean_reward: float
    """Of every rollout, hinted and unused ones included: the mean over used groups depends on the selection."""


def fill(
    roll: Callable[[Sequence[Candidate]], list[Group]],
    stream: PromptStream,
    needed: int,
    settings: SamplingSettings,
    *,
    hint: Callable[[int], Row | None] | None = None,
    max_hinted: int = 0,
    world_size: int = 1,
    rank: int = 0,
) -> Sample:
    """`needed` groups for each process.

    `roll` generates candidates, an equal share a process in rank order, and returns all groups in that order. At most
    `max_hinted` groups a process use a hint; they need one round beyond the first, which is granted for them.
    """
    kept: list[list[Group]] = [[] for _ in range(world_size)]
    spare: list[list[Group]] = [[] for _ in range(world_size)]
    totals: list[torch.Tensor] = []
    skipped_before = stream.skipped
    candidates = [Candidate(prompt=p) for p in stream.draw(needed * world_size)]
    for round_number in range(1, settings.rounds + 1 + bool(max_hinted)):
        groups = roll(candidates)
        totals += [g.totals_G for g in groups]
        stream.observe((g.candidate.prompt, g.useful(settings.min_std)) for g in groups if g.candidate.hint is None)
        for i, group in enumerate(groups):
            owner = i * world_size // len(groups)
            (kept if group.useful(settings.min_std) else spare)[owner].append(group)
        missing = max(needed - len(groups) for groups in kept)
        refill = round_number < settings.rounds
        if missing <= 0 or round_number == settings.rounds + bool(max_hinted):
            break
        hints = [_hints(dead, useful, hint, max_hinted, missing) for dead, useful in zip(spare, kept, strict=True)]
        if not refill and not any(hints):
            break
        candidates = _next_candidates(hints, stream, missing if refill else max(map(len, hints)))
    used = [(useful + dead)[:needed] for useful, dead in zip(kept, spare, strict=True)]
    everywhere = [group for groups in used for group in groups]
    return Sample(
        groups=used[rank],
        rollouts=[g.rollouts for g in used[rank] if g.rollouts is not None],
        rolled=len(totals),
        useful=sum(g.useful(settings.min_std) for g in everywhere),
        skipped=stream.skipped - skipped_before,
        hinted=sum(g.candidate.hint is not None for g in everywhere),
        mean_reward=torch.cat(totals).mean().item(),
    )


def _hints(
    dead: Sequence[Group], useful: Sequence[Group], hint: Callable[[int], Row | None] | None, limit: int, missing: int
) -> list[Candidate]:
    """A process's unsolved prompts with their hint, each at most once."""
    if hint is None:
        return []
    tried = {g.candidate.prompt for g in (*dead, *useful) if g.candidate.hint is not None}
    unsolved = [g.candidate.prompt for g in dead if g.unsolved and g.candidate.prompt not in tried]
    hinted = [Candidate(prompt=p, hint=row) for p in dict.fromkeys(unsolved) if (row := hint(p)) is not None]
    return hinted[: max(0, min(limit - len(tried), missing))]


def _next_candidates(hints: Sequence[Sequence[Candidate]], stream: PromptStream, share: int) -> list[Candidate]:
    """`share` candidates for each process: its hints first, fresh prompts for the rest."""
    fresh = iter(stream.draw(sum(share - len(mine) for mine in hints)))
    return [c for mine in hints for c in (*mine, *(Candidate(prompt=next(fresh)) for _ in range(share - len(mine))))]
