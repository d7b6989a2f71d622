"""A pipeline definition as a picture (SVG): the steps as SageMaker Studio arranges them, with what each runs on.

Steps stand in rows by their longest way from the start. Edges to the next row are drawn straight down, longer ones along
lanes at the side of the step that they lead to. Nothing but the definition is read: what is drawn is what would be deployed.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from pipelines.compilers.sagemaker_checks import all_steps

CARD_WIDTH, CARD_HEIGHT = 236, 58
COLUMN, ROW = 276, 106
LANE, MARGIN, TITLE = 16, 32, 62
GET_STEP = re.compile(r"Steps\.([A-Za-z0-9_-]+)\.")
COLOURS = {"Training": "#7c3aed", "Processing": "#0f766e", "Condition": "#b45309"}
INK, FAINT, EDGE, LONG_EDGE, CARD, PAPER = "#111827", "#6b7280", "#64748b", "#cbd5e1", "#ffffff", "#f8fafc"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
SYMBOLS = {
    "Equals": "=",
    "GreaterThan": ">",
    "GreaterThanOrEqualTo": "≥",
    "LessThan": "<",
    "LessThanOrEqualTo": "≤",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One step, placed."""

    name: str
    kind: str
    title: str
    detail: str
    x: float
    """Centre."""
    y: float
    """Top."""


def edges(definition: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Who must be done before whom: references, DependsOn, and a gate before the first steps of its branch."""
    return list(dict.fromkeys(_edges(definition["Steps"], None)))


def _edges(steps: Sequence[Mapping[str, Any]], gate: str | None) -> Iterator[tuple[str, str]]:
    inside = {step["Name"] for step in steps}
    for step in steps:
        own = {"Conditions": step["Arguments"]["Conditions"]} if step["Type"] == "Condition" else step["Arguments"]
        before = list(dict.fromkeys([*references(own), *step.get("DependsOn", ())]))
        yield from ((name, step["Name"]) for name in before)
        if gate is not None and not inside.intersection(before):
            yield gate, step["Name"]
        if step["Type"] == "Condition":
            for branch in ("IfSteps", "ElseSteps"):
                yield from _edges(step["Arguments"][branch], step["Name"])


def references(value: Any) -> Iterator[str]:
    """The steps whose properties a value refers to."""
    if isinstance(value, dict):
        if isinstance(value.get("Get"), str):
            yield from GET_STEP.findall(value["Get"])
        else:
            for item in value.values():
                yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def to_svg(name: str, definition: Mapping[str, Any]) -> str:
    """The picture; equal definitions give equal bytes."""
    steps = {step["Name"]: step for step in all_steps(definition["Steps"])}
    links = edges(definition)
    nodes = place(steps, ranks(list(steps), links))
    long = [(a, b) for a, b in links if nodes[b].y - nodes[a].y > ROW + 1]
    short = [link for link in links if link not in long]
    lanes = sides(nodes, long)
    left = min([node.x - CARD_WIDTH / 2 for node in nodes.values()] + list(lanes.values())) - MARGIN
    right = max([node.x + CARD_WIDTH / 2 for node in nodes.values()] + list(lanes.values())) + MARGIN
    width, height = right - left, max(node.y for node in nodes.values()) + CARD_HEIGHT + MARGIN
    drawn = [
        *(lane(nodes[a], nodes[b], lanes[a, b], boxed_in(nodes, nodes[a], lanes[a, b])) for a, b in long),
        *(curve(nodes[a], nodes[b]) for a, b in short),
        *(label(nodes[a], nodes[b]) for a, b in short if nodes[a].kind == "Condition"),
        *(card(node) for node in nodes.values()),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left:g} 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="{FONT}" role="img" aria-label="{escape(name)}">\n{MARKERS}'
        f'<rect x="{left:g}" width="{width:g}" height="{height:g}" rx="12" fill="{PAPER}"/>\n'
        f'<text x="{left + MARGIN:g}" y="36" font-size="17" font-weight="600" fill="{INK}">{escape(name)}</text>\n'
        f"{legend(left + MARGIN)}" + "\n".join(drawn) + "\n</svg>\n"
    )


def ranks(names: Sequence[str], links: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The row of each step; the definition lists a step after those that it reads."""
    before: dict[str, list[str]] = {name: [] for name in names}
    for a, b in links:
        before[b].append(a)
    found: dict[str, int] = {}
    for name in names:
        found[name] = 1 + max((found[other] for other in before[name]), default=-1)
    return found


def place(steps: Mapping[str, Mapping[str, Any]], rank: Mapping[str, int]) -> dict[str, Node]:
    """Rows from the top, the steps of a row side by side around the line x = 0."""
    rows: dict[int, list[str]] = {}
    for name in steps:
        rows.setdefault(rank[name], []).append(name)
    return {
        name: Node(
            name=name,
            kind=steps[name]["Type"],
            title=steps[name]["DisplayName"],
            detail=detail(steps[name]),
            x=COLUMN * (column - (len(row) - 1) / 2),
            y=TITLE + MARGIN / 2 + ROW * number,
        )
        for number, row in rows.items()
        for column, name in enumerate(row)
    }


def detail(step: Mapping[str, Any]) -> str:
    """What a step runs on, or what a gate compares."""
    request = step["Arguments"]
    if step["Type"] == "Condition":
        condition = request["Conditions"][0]
        left = condition["LeftValue"]
        what = left["Std:JsonGet"]["Path"].split(".")[-1] if "Std:JsonGet" in left else left["Get"].split(".")[-1]
        return f"{what} {SYMBOLS[condition['Type']]} {condition['RightValue']}"
    machines = (
        request["ResourceConfig"] if step["Type"] == "Training" else request["ProcessingResources"]["ClusterConfig"]
    )
    count = f"{machines['InstanceCount']} x " if machines["InstanceCount"] > 1 else ""
    spot = " · Spot" if request.get("EnableManagedSpotTraining") else ""
    return f"{count}{machines['InstanceType']}{spot}"


def card(node: Node) -> str:
    colour, left = COLOURS[node.kind], node.x - CARD_WIDTH / 2
    radius = CARD_HEIGHT / 2 if node.kind == "Condition" else 8
    text = left + (CARD_HEIGHT / 2 if node.kind == "Condition" else 20)
    bar = (
        ""
        if node.kind == "Condition"
        else f'<path d="M{left + 8:g} {node.y:g}h-1a7 7 0 0 0-7 7v{CARD_HEIGHT - 14}a7 7 0 0 0 7 7h1z" fill="{colour}"/>'
    )
    return (
        f'<g><rect x="{left:g}" y="{node.y:g}" width="{CARD_WIDTH}" height="{CARD_HEIGHT}" rx="{radius:g}" '
        f'fill="{CARD}" stroke="{colour}" stroke-width="1.25"/>{bar}'
        f'<text x="{text:g}" y="{node.y + 25:g}" font-size="14" font-weight="600" fill="{INK}">{escape(node.title)}</text>'
        f'<text x="{text:g}" y="{node.y + 44:g}" font-size="11.5" fill="{FAINT}">{escape(node.detail)}</text></g>'
    )


def curve(a: Node, b: Node) -> str:
    """Straight down to the next row."""
    top, bottom = a.y + CARD_HEIGHT, b.y - 7
    middle = (top + bottom) / 2
    path = f"M{a.x:g} {top:g}C{a.x:g} {middle:g} {b.x:g} {middle:g} {b.x:g} {bottom:g}"
    return f'<path d="{path}" fill="none" stroke="{EDGE}" stroke-width="1.5" marker-end="url(#down)"/>'


def label(gate: Node, then: Node) -> str:
    """Beside the arrow's end. What a gate does not let through has no step to lead to, so only the way on is named."""
    x, anchor = (then.x - 10, "end") if then.x < gate.x else (then.x + 10, "start")
    return f'<text x="{x:g}" y="{then.y - 12:g}" text-anchor="{anchor}" font-size="11" fill="{FAINT}">if so</text>'


def boxed_in(nodes: Mapping[str, Node], node: Node, x: float) -> bool:
    """Whether another step of the same row stands between a step and a lane."""
    return any(other.y == node.y and (other.x - node.x) * x > 0 for other in nodes.values())


def sides(nodes: Mapping[str, Node], links: Sequence[tuple[str, str]]) -> dict[tuple[str, str], float]:
    """Where each long edge runs: beside all steps, left of those left of the centre line, shorter ones further in."""
    found, edge = {}, max(node.x for node in nodes.values()) + CARD_WIDTH / 2
    counts = {-1: 0, 1: 0}
    for link in sorted(links, key=lambda e: (nodes[e[1]].y - nodes[e[0]].y, e)):
        side = -1 if nodes[link[1]].x < 0 else 1
        counts[side] += 1
        found[link] = side * (edge + LANE * counts[side])
    return found


def lane(a: Node, b: Node, x: float, below: bool) -> str:
    """Out to one side, or out below where a step is in the way, down a lane of its own, and back in."""
    side = 1 if x > 0 else -1
    end, bottom, r = b.x + side * (CARD_WIDTH / 2 + 7), b.y + CARD_HEIGHT / 2 - 8, 8
    sweep, bend = (1 if side > 0 else 0), side * r
    if below:
        top = a.y + CARD_HEIGHT + 14
        out = f"M{a.x + side * CARD_WIDTH / 4:g} {a.y + CARD_HEIGHT:g}V{top:g}"
    else:
        top = a.y + CARD_HEIGHT / 2 + 8
        out = f"M{a.x + side * CARD_WIDTH / 2:g} {top:g}"
    path = f"{out}H{x - bend:g}a{r} {r} 0 0 {sweep} {bend} {r}V{bottom - r:g}a{r} {r} 0 0 {sweep} {-bend} {r}H{end:g}"
    return f'<path d="{path}" fill="none" stroke="{LONG_EDGE}" stroke-width="1.25" marker-end="url(#left)"/>'


def legend(x: float) -> str:
    drawn = []
    for kind, colour in COLOURS.items():
        drawn.append(
            f'<circle cx="{x + 5:g}" cy="54" r="4.5" fill="{colour}"/>'
            f'<text x="{x + 15:g}" y="58" font-size="11.5" fill="{FAINT}">{kind}</text>'
        )
        x += 34 + 7 * len(kind)
    return "".join(drawn) + "\n"


MARKERS = (
    "<defs>"
    f'<marker id="down" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    f'<path d="M0 0L8 4L0 8z" fill="{EDGE}"/></marker>'
    f'<marker id="left" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    f'<path d="M0 0L8 4L0 8z" fill="{LONG_EDGE}"/></marker></defs>\n'
)
