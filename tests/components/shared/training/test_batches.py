from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from components.shared.training.batches import batches


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5), st.integers(0, 12))
def test_every_epoch_holds_every_row_once_and_the_stream_resumes_anywhere(rows, size, seed, start):
    stream = list(islice(batches(rows, size, seed), start + 5))
    flat = [i for batch in stream for i in batch]
    for epoch in range(len(flat) // rows):
        assert sorted(flat[epoch * rows : (epoch + 1) * rows]) == list(range(rows))
    assert list(islice(batches(rows, size, seed, start=start), 5)) == stream[start:]


def test_another_seed_gives_another_order():
    assert next(batches(100, 100, 1)) != next(batches(100, 100, 2))
