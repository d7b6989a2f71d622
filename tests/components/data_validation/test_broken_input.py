"""Nothing broken is accepted and nothing crashes: classes of broken input, and mutations that provably invalidate."""

import gzip
import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.data_validation.broken import FILES, LINES, joined, parquet, zstd
from benchmarks.data_validation.stand import Stand, mutations
from components.shared.contracts.records import Rejected

WHOLE = os.environ.get("SRL_RLVR_CAMPAIGNS") == "whole"
EACH = 5 if WHOLE else 1


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    return Stand(tmp_path_factory.mktemp("stand"))


def test_there_are_enough_classes():
    assert len(LINES) + len(FILES) >= 40


def test_sound_lines_are_kept(stand):
    assert sorted(stand.kept(stand.sound)) == sorted(stand.sound)


@pytest.mark.slow
@pytest.mark.parametrize("name", LINES)
def test_a_broken_line_is_refused(stand, name):
    for number in range(EACH):
        rng = random.Random(f"{name}/{number}")
        sound = stand.sound[number]
        broken = LINES[name](rng, sound)
        assert broken != sound
        items = stand.read(".jsonl", broken + b"\n" + stand.sound[-1] + b"\n")
        assert stand.kept(items) == [stand.sound[-1]], (name, broken[:200])


@pytest.mark.parametrize("name", FILES)
def test_of_a_broken_file_only_sound_lines_come(stand, name):
    for number in range(EACH):
        items = stand.read(*FILES[name](random.Random(f"{name}/{number}"), stand.sound[:8]))
        rejected = [item for item in items if isinstance(item, Rejected)]
        assert rejected and all(r.rule in {"truncated", "ratio", "columns", "line_bytes"} for r in rejected)
        assert set(stand.kept(items)) <= set(stand.sound[:8])


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_a_sound_file_gives_its_lines(stand, suffix):
    makers = {".jsonl": joined, ".jsonl.gz": lambda lines: gzip.compress(joined(lines)), ".jsonl.zst": zstd}
    make = makers.get(suffix, lambda lines: parquet(lines, "record"))
    assert stand.read(suffix, make(stand.sound)) == stand.sound


@settings(
    max_examples=1000 if WHOLE else 60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(mutate=mutations(), number=st.integers(0, 9))
def test_a_mutated_record_is_refused(stand, mutate, number):
    assert stand.kept([mutate(stand.sound[number])]) == []
