import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.shared.training.grpo.group_sampling import Candidate, Group, Sample, fill
from components.shared.training.grpo.prompt_stream import PromptStream
from components.shared.training.grpo.settings import SamplingSettings

DEAD, SOLVED, MIXED = torch.zeros(4), torch.ones(4), torch.tensor([0.0, 1.0, 0.0, 1.0])


def roller(outcome, log=None):
    """Rolls candidates out by a function of the prompt; a hint solves half of the group."""

    def roll(candidates):
        if log is not None:
            log.append(list(candidates))
        return [Group(candidate=c, totals_G=MIXED if c.hint else outcome(c.prompt), rollouts=None) for c in candidates]

    return roll


def stream(explore=1.0):
    return PromptStream(rows=40, seed=0, explore=explore)


def test_one_round_uses_what_it_rolled():
    log = []
    found = fill(roller(lambda p: DEAD if p % 2 else MIXED, log), stream(), 8, SamplingSettings())
    assert [len(batch) for batch in log] == [8]
    assert sorted(g.candidate.prompt for g in found.groups) == sorted(c.prompt for c in log[0])
    assert found.mean_reward == pytest.approx(sum(0.5 * (c.prompt % 2 == 0) for c in log[0]) / 8)


def test_dynamic_sampling_resamples_until_the_update_is_full_of_useful_groups():
    log = []
    found = fill(roller(lambda p: DEAD if p % 2 else MIXED, log), stream(), 8, SamplingSettings(rounds=8))
    assert len(found.groups) == found.useful == 8
    assert all(g.candidate.prompt % 2 == 0 for g in found.groups)
    assert found.rolled == sum(map(len, log)) > 8


def test_the_budget_of_rounds_is_kept_and_what_is_open_is_filled_with_useless_groups():
    log = []
    found = fill(roller(lambda p: DEAD, log), stream(), 4, SamplingSettings(rounds=3))
    assert (len(log), len(found.groups), found.useful) == (3, 4, 0)


def test_groups_must_differ_by_more_than_the_threshold():
    almost = torch.tensor([0.5, 0.5, 0.5, 0.52])
    for min_std, useful in ((0.001, 2), (0.05, 0)):
        assert fill(roller(lambda p: almost), stream(), 2, SamplingSettings(min_std=min_std)).useful == useful


def test_predicting_dead_prompts_saves_rollouts():
    """At half dead prompts, resampling alone spends two rollouts a useful group; skipping spends fewer."""
    spent = {}
    for explore in (1.0, 0.25):
        source = stream(explore)
        samples = [
            fill(roller(lambda p: DEAD if p % 2 else MIXED), source, 8, SamplingSettings(rounds=10)) for _ in range(30)
        ]
        assert all(s.useful == 8 for s in samples)
        spent[explore] = sum(s.rolled for s in samples) / 240
    assert spent[0.25] < 0.7 * spent[1.0]


def test_unsolved_prompts_get_a_hint_each_within_the_limit():
    log = []
    found = fill(
        roller(lambda p: DEAD, log),
        stream(),
        8,
        SamplingSettings(),
        hint=lambda p: {"prompt": f"hint {p}"} if p % 2 == 0 else None,
        max_hinted=3,
    )
    assert (found.hinted, found.useful, len(found.groups), len(log)) == (3, 3, 8, 2)
    assert all(c.hint and c.prompt % 2 == 0 for c in log[1])
    hinted = [c.prompt for c in log[1]]
    assert len(set(hinted)) == 3 and set(hinted) <= {c.prompt for c in log[0]}


def test_solved_prompts_get_no_hint():
    found = fill(
        roller(lambda p: SOLVED), stream(), 4, SamplingSettings(), hint=lambda p: {"prompt": "h"}, max_hinted=4
    )
    assert (found.hinted, found.rolled) == (0, 4)


def test_a_hinted_group_says_nothing_about_its_prompt():
    source = stream(0.5)
    fill(roller(lambda p: DEAD), source, 4, SamplingSettings(), hint=lambda p: {"prompt": "h"}, max_hinted=4)
    assert sorted(source.dead_streak.values()) == [1, 1, 1, 1]


@settings(deadline=None, max_examples=60)
@given(
    world=st.integers(1, 4),
    needed=st.integers(1, 5),
    rounds=st.integers(1, 4),
    max_hinted=st.integers(0, 3),
    kinds=st.lists(st.sampled_from(["dead", "solved", "mixed"]), min_size=40, max_size=40),
)
def test_every_process_decides_alike_and_gets_its_share(world, needed, rounds, max_hinted, kinds):
    outcomes = {"dead": DEAD, "solved": SOLVED, "mixed": MIXED}

    def on(rank: int) -> tuple[Sample, list[list[Candidate]], PromptStream]:
        log, source = [], stream(0.5)
        found = fill(
            roller(lambda p: outcomes[kinds[p]], log),
            source,
            needed,
            SamplingSettings(rounds=rounds),
            hint=lambda p: {"prompt": "hint"} if p % 3 else None,
            max_hinted=max_hinted,
            world_size=world,
            rank=rank,
        )
        return found, log, source

    results = [on(rank) for rank in range(world)]
    _, log, source = results[0]
    assert all(other == log and s == source for _, other, s in results)
    assert all(len(found.groups) == needed for found, _, _ in results)
    assert sum(sum(g.useful(1e-6) for g in found.groups) for found, _, _ in results) == results[0][0].useful
    for rank, (found, _, _) in enumerate(results):
        own = [c for batch in log for c in batch[rank * len(batch) // world : (rank + 1) * len(batch) // world]]
        assert all(g.candidate in own for g in found.groups)
        assert sum(g.candidate.hint is not None for g in found.groups) <= max_hinted
    assert len(log) <= rounds + 1
