import json
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from components.shared.training.grpo.prompt_stream import PromptStream


def test_every_epoch_holds_every_prompt_in_another_order():
    stream = PromptStream(rows=20, seed=3)
    first, second = stream.draw(20), stream.draw(20)
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    assert PromptStream(rows=20, seed=3).draw(20) == first != PromptStream(rows=20, seed=4).draw(20)


def test_prompts_that_keep_failing_come_up_more_and_more_rarely():
    stream = PromptStream(rows=10, seed=0, explore=0.5)
    drawn = Counter()
    for _ in range(100):
        prompts = stream.draw(5)
        drawn.update(prompts)
        stream.observe((p, p >= 5) for p in prompts)
    assert min(drawn[p] for p in range(5, 10)) > 5 * max(drawn[p] for p in range(5))
    assert stream.skipped > 0


def test_one_useful_group_clears_a_prompt_s_record():
    stream = PromptStream(rows=2, seed=0, explore=0.1)
    stream.observe([(0, False), (0, False), (1, False)])
    stream.observe([(0, True)])
    assert stream.dead_streak == {1: 1}


def test_prompts_that_are_all_dead_still_fill_a_draw():
    stream = PromptStream(rows=4, seed=0, explore=1e-9)
    stream.observe((p, False) for p in range(4))
    assert len(stream.draw(6)) == 6
    assert stream.skipped <= 10


@given(st.integers(1, 12), st.lists(st.integers(0, 7), min_size=1, max_size=8), st.integers(0, 8), st.floats(0.1, 1))
def test_a_restored_stream_goes_on_the_same(rows, draws, cut, explore):
    whole = PromptStream(rows=rows, seed=5, explore=explore)
    other = PromptStream(rows=rows, seed=5, explore=explore)
    for i, count in enumerate(draws):
        if i == cut:
            state = json.loads(json.dumps(other.state()))
            other = PromptStream(rows=rows, seed=5, explore=explore)
            other.restore(state)
        drawn = whole.draw(count)
        assert other.draw(count) == drawn
        for stream in (whole, other):
            stream.observe((p, p % 2 == 0) for p in drawn)
    assert whole == other
