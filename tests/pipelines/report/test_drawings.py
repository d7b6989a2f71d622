"""Drawings say what the numbers say."""

import re

from hypothesis import given
from hypothesis import strategies as st

from pipelines.report.drawings import POINTS, curve_svg, nice_ticks, rail_svg, shown, thinned
from pipelines.report.facts import Curve

finite = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))


@given(st.lists(finite, min_size=1, max_size=3000))
def test_thinning_keeps_ends_lowest_and_highest(values):
    steps, kept = thinned(range(len(values)), values)
    assert len(kept) <= POINTS + 2
    assert (kept[0], kept[-1]) == (values[0], values[-1])
    assert (min(kept), max(kept)) == (min(values), max(values))
    assert [values[step] for step in steps] == kept


@given(finite, finite)
def test_ticks_cover_the_range_in_equal_steps(a, b):
    low, high = sorted((a, b))
    ticks = nice_ticks(low, high)
    span = ticks[-1] - ticks[0]
    assert ticks[0] <= low + 1e-6 * span and high <= ticks[-1] + 1e-6 * span
    assert 2 <= len(ticks) <= 9


@given(st.lists(st.tuples(st.integers(0, 10**6), finite), min_size=1, max_size=50, unique_by=lambda p: p[0]))
def test_every_point_lies_in_the_drawing(points):
    steps, values = zip(*sorted(points), strict=True)
    drawing = curve_svg(Curve(name="loss", steps=steps, values=values), ceiling=0.1)
    line = re.search(r'class="line" points="([^"]*)"', drawing)[1]
    for point in line.split():
        x, y = map(float, point.split(","))
        assert 0 <= x <= 340 and 0 <= y <= 170


def test_an_area_is_filled_only_from_zero():
    steps = (0, 1)
    assert 'class="area"' in curve_svg(Curve(name="kl", steps=steps, values=(0.0, 0.08)))
    assert 'class="area"' not in curve_svg(Curve(name="loss", steps=steps, values=(0.6, 0.5)))


def test_the_rail_has_a_node_a_task_and_an_arc_an_edge():
    after = {"a": (), "b": ("a",), "c": ("a", "b"), "d": ("elsewhere",)}
    drawing = rail_svg(after, dict.fromkeys(after, "done"))
    assert drawing.count('class="node') == 4
    assert drawing.count('class="edge') == 3


def test_numbers_are_short():
    assert [shown(v) for v in (0, 0.1234, 1234.0, 0.00005, 2.5e7)] == ["0", "0.123", "1234", "5.0e-5", "2.5e7"]
