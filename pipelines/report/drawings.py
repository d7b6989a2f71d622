"""Drawings in SVG, coloured by the page's style sheet: curves, and the rail of arcs that is the DAG.

Coordinates are of the drawing; the page scales it as a whole, so that text keeps its shape at any width.
"""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from pipelines.report.facts import Curve

WIDTH, HEIGHT = 340, 170
LEFT, RIGHT, TOP, BOTTOM = 42, 12, 10, 22
POINTS = 240
"""Points drawn of a curve: more than that cannot be told apart at this width."""
ROW = 46
"""Height of a task's row, in px, as the style sheet has it."""
RAIL = 66
"""Width of the rail, in px."""
NODE = 12
"""Distance of the rail's nodes from its right side."""


def curve_svg(curve: Curve, ceiling: float | None = None, unit: str = "step") -> Markup:
    """A line over the steps, or whatever `unit` they are; `ceiling` is a bound drawn with it."""
    steps, values = thinned(curve.steps, curve.values)
    shown_values = values if ceiling is None else [*values, ceiling]
    ticks = nice_ticks(min(shown_values), max(shown_values))
    low, high, first, last = ticks[0], ticks[-1], steps[0], steps[-1]

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((step - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    points = [f"{x(step):.1f},{y(value):.1f}" for step, value in zip(steps, values, strict=True)]
    base = HEIGHT - BOTTOM
    parts = [
        *(f'<path class="grid" d="M{LEFT} {y(t):.1f}H{WIDTH - RIGHT}"/>' for t in ticks),
        *(f'<text x="{LEFT - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{shown(t)}</text>' for t in ticks),
        # An area over an axis that does not start at 0 would be a lie about sizes.
        f'<polygon class="area" points="{x(first):.1f},{base} {" ".join(points)} {x(last):.1f},{base}"/>'
        if low == 0
        else "",
        f'<polyline class="line" points="{" ".join(points)}"/>',
        f'<circle class="last" cx="{x(steps[-1]):.1f}" cy="{y(values[-1]):.1f}" r="3.5"/>',
        f'<text x="{LEFT}" y="{HEIGHT - 5}">{first:g}</text>',
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{unit} {last:g}</text>',
    ]
    if ceiling is not None:
        at = y(ceiling)
        beside = at + 14 if at < TOP + 14 else at - 5
        parts.append(f'<path class="ceiling" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="bound" x="{LEFT + 4}" y="{beside:.1f}">ceiling {ceiling:g}</text>')
    label = f"{curve.name}: {shown(curve.values[0])} at {unit} {first:g}, {shown(curve.values[-1])} at {unit} {last:g}"
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>')


def thinned(steps: Sequence[int], values: Sequence[float]) -> tuple[list[int], list[float]]:
    """At most `POINTS` points, the lowest and the highest of every stretch kept: a spike never disappears."""
    if len(steps) <= POINTS:
        return list(steps), list(values)
    size = math.ceil(len(steps) / (POINTS // 2))
    kept = {0, len(steps) - 1}
    for start in range(0, len(steps), size):
        stretch = range(start, min(start + size, len(steps)))
        kept |= {min(stretch, key=values.__getitem__), max(stretch, key=values.__getitem__)}
    return [steps[i] for i in sorted(kept)], [values[i] for i in sorted(kept)]


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that cover [low, high], about `count` of them (Heckbert, Graphics Gems, 1990)."""
    if high <= low:
        spread = abs(high) or 1.0
        low, high = low - spread / 2, high + spread / 2
    rough = (high - low) / (count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def shown(value: float) -> str:
    """A number as an axis shows it: three digits, without the exponent where it needs none."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def rail_svg(after: Mapping[str, Sequence[str]], classes: Mapping[str, str]) -> Markup:
    """The DAG beside its rows: a node a task, from the top in the order in which data flows; an arc for each edge.

    `after` names what each task waits for; `classes` is how the style sheet calls each task's state.
    """
    rows = {name: i for i, name in enumerate(after)}
    edges = [(rows[a], rows[b], b) for b, names in after.items() for a in names if a in rows]
    x = RAIL - NODE
    arcs = [f'<path class="edge {classes[name]}" d="{_arc(x, a, b)}"/>' for a, b, name in sorted(edges)]
    nodes = [
        f'<circle class="node {classes[name]}" cx="{x}" cy="{_middle(i)}" r="6"><title>{escape(name)}</title></circle>'
        for name, i in rows.items()
    ]
    height = ROW * len(rows)
    label = "; ".join(f"{b} after {', '.join(names)}" for b, names in after.items() if names)
    return Markup(
        f'<svg class="rail" width="{RAIL}" height="{height}" viewBox="0 0 {RAIL} {height}" role="img" '
        f'aria-label="{escape(label)}">{"".join([*arcs, *nodes])}</svg>'
    )


def _middle(row: int) -> float:
    return ROW * (row + 0.5)


def _arc(x: float, a: int, b: int) -> str:
    """Straight down to the next row; to a further one along a lane that is wider the further it is."""
    top, bottom = _middle(a), _middle(b)
    if b == a + 1:
        return f"M{x} {top}V{bottom}"
    lane = x - min(x - 4, 8 * (b - a))
    bend = min(ROW * 0.9, (bottom - top) / 2)
    down = f"C{lane:g} {top} {lane:g} {top + bend} {lane:g} {top + bend}"
    return f"M{x} {top}{down}V{bottom - bend}C{lane:g} {bottom - bend} {lane:g} {bottom} {x} {bottom}"
