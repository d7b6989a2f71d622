"""docs/benchmarks.md and docs/benchmarks.svg from recorded results."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.measures import Machine, Measure, Ratio, Result, target

HEAD = """# Benchmarks

Written by `make bench` (`python -m benchmarks NAME...` for some of them) from `benchmarks/results/`. Two ways that are
compared do the same work in turn; how each benchmark makes sure of that is said at the head of its file. Times of training
are CPU seconds of one thread. A ratio has its 95 % interval; a target counts as met when the whole interval is past it, and
as unsure when only a part is. Serving and generation are measured on the clock, which what else runs on the machine spoils:
its load is given.

![Ratios over their targets](benchmarks.svg)
"""
NOT_MEASURED = """`training.cpu_to_reward` (CPU seconds to a held-out score of 0.75, SRL and RLVR here against SFT and
GRPO in TRL; wanted: at most a third) was not run over all its seeds yet. On the one seed that was tried, on a loaded
machine, it took 167 s here and 127 s there: no gain. When RLVR leaves its first plateau is chance, in either: a rerun of
that seed with another probe was still at 0.53 after 100 updates.
"""
TITLES = {
    "training": "Training against TRL",
    "serving": "Serving",
    "collaboration": "Generation",
    "data_validation": "Data validation",
    "local_engine": "The local engine",
}


def write_table(results: Mapping[str, Result], folder: Path) -> None:
    """Write the page and the drawing into `folder`."""
    parts = [HEAD]
    for topic, title in TITLES.items():
        found = {name: result for name, result in results.items() if name.split(".")[0] == topic}
        if found:
            parts += [f"\n## {title}\n", *section(found)]
    parts.append(NOT_MEASURED)
    parts += ["## Measured on\n", *machines(results)]
    (folder / "benchmarks.md").write_text("\n".join(parts) + "\n", encoding="utf-8")
    draw([m for result in results.values() for m in result.measures], folder / "benchmarks.svg")


def section(results: Mapping[str, Result]) -> Iterable[str]:
    for name, result in results.items():
        peers = any(m.peer is not None for m in result.measures)
        yield f"`python -m benchmarks {name}`\n"
        columns = ["measure", "here", *(["peer", "ratio"] if peers else []), "target", "met"]
        yield line(columns)
        yield line(["---"] * len(columns))
        for m in result.measures:
            note = f" ({m.note})" if m.note else ""
            between = [f"{figure(m.peer, m.unit)} {m.peer_name}" if m.peer is not None else "", ratio_text(m.ratio)]
            yield line([m.name + note, figure(m.ours, m.unit), *(between if peers else []), *aim(m)])
        yield ""


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def figure(value: float | None, unit: str) -> str:
    return "" if value is None else f"{number(value)} {unit}".rstrip()


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio_text(ratio: Ratio | None) -> str:
    return "" if ratio is None else f"{number(ratio.mean)} [{number(ratio.low)}, {number(ratio.high)}]"


def aim(m: Measure) -> tuple[str, str]:
    return target(m, "{}"), m.verdict


def machines(results: Mapping[str, Result]) -> Iterable[str]:
    """Which machine and which libraries, each different one once."""
    said: dict[str, list[str]] = {}
    for name, result in results.items():
        said.setdefault(described(result.machine), []).append(f"{name} (load {result.machine.load:g})")
    for text, names in said.items():
        yield f"- {text}: {', '.join(names)}"


def described(machine: Machine) -> str:
    libraries = ", ".join(f"{name} {version}" for name, version in machine.libraries.items())
    return f"{machine.processor}, {machine.cores} cores, Python {machine.python}, {libraries}"


def draw(measures: Iterable[Measure], path: Path) -> None:
    """How far past its target each ratio is, with its interval, on a logarithmic axis; 1 is the target."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "benchmarks", "font.size": 8, "svg.fonttype": "none"}
    from matplotlib import pyplot

    aimed = [m for m in measures if m.ratio is not None and m.verdict]
    figure, axis = pyplot.subplots(figsize=(8, 0.6 + 0.28 * max(1, len(aimed))), layout="constrained")
    for place, m in enumerate(reversed(aimed)):
        low, middle, high = past_target(m)
        colour = {"yes": "#2a7f4f", "unsure": "#b8860b", "no": "#b03030"}[m.verdict]
        axis.plot([low, high], [place, place], color=colour, linewidth=1.5)
        axis.plot([middle], [place], "o", color=colour, markersize=4)
    axis.axvline(1, color="#888888", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_yticks(range(len(aimed)), [m.name for m in reversed(aimed)])
    axis.set_xlabel("ratio over its target (1: met exactly; further right: better)")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def past_target(m: Measure) -> tuple[float, float, float]:
    """Low, middle and high of the ratio over its target, so that more is better."""
    assert m.ratio is not None
    ends = (m.ratio.low, m.ratio.mean, m.ratio.high)
    if m.at_least is not None:
        low, middle, high = (end / m.at_least for end in ends)
    else:
        assert m.at_most is not None
        high, middle, low = (m.at_most / end for end in ends)
    return low, middle, high
