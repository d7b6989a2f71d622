"""Two runs side by side."""

import io
import json

from rich.console import Console

from pipelines.report.comparison import apart, compare, show


def test_runs_part_where_they_were_set_differently(make_night):
    found = compare(make_night("a", steps=30), make_night("b", steps=40))
    assert found["parts_at"] == "srl"
    assert found["settings"] == {"srl.steps": (30, 40)}
    assert found["scores"]["evaluation candidate"][0]["mean"] == found["scores"]["evaluation candidate"][1]["mean"]
    assert found["margins"]["distill_silver"] == (0.81 - 0.95, 0.81 - 0.95)
    json.dumps(found)


def test_equal_runs_are_said_to_be_equal(make_night):
    found = compare(make_night("a"), make_night("b"))
    assert (found["parts_at"], found["settings"]) == (None, {})
    console = Console(width=120, record=True, file=io.StringIO())
    show(found, console)
    text = console.export_text()
    assert "They are equal." in text
    assert "0.600 [0.580, 0.620]" in text and "overlap" in text


def test_only_disjoint_intervals_are_called_different():
    low, high, wide = ({"low": a, "high": b} for a, b in ((0.1, 0.2), (0.3, 0.4), (0.15, 0.35)))
    assert "b is higher" in apart(low, high) and "a is higher" in apart(high, low)
    assert apart(low, wide) == apart(wide, high) == "overlap"
