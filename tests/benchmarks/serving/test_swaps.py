"""The benchmark of swaps: a few of them, and what it hands over."""

import sys

import pytest

from benchmarks.measures import read_result
from benchmarks.serving import hot_swap


@pytest.mark.slow
def test_swaps_under_load_lose_and_mix_nothing_and_have_their_target(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hot_swap", "--swaps", "4"])
    hot_swap.main()
    found = {m.name.removeprefix("4 swaps under load"): m for m in read_result(capsys.readouterr().out).measures}
    assert (found[": requests lost"].ours, found[": answers mixed"].ours) == (0, 0)
    assert found[", p95"].at_most == 100 and 0 < found[", p50"].ours <= found[", p95"].ours
