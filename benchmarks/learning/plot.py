"""The page's figure: held-out scores of the arms, and how reward and KL went during training."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.learning.estimates import estimate
from benchmarks.learning.plan import ARMS
from benchmarks.learning.results import ArmResult


def draw(results: Sequence[ArmResult], file: Path) -> None:
    """Write the figure of one model type as SVG; equal results give equal bytes."""
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    draw_scores(figure.add_subplot(grid[:, 0]), results)
    curves = figure.add_subplot(grid[0, 1])
    draw_curve(curves, results, "rollout_reward")
    curves.set_ylabel("reward of the rollouts")
    kl = figure.add_subplot(grid[1, 1])
    draw_curve(kl, results, "kl_probe")
    kl.set_yscale("log")
    kl.set(ylabel="KL to the stage's start,\nnats per token", xlabel="update")
    file.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": file.stem}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def draw_scores(axes: Axes, results: Sequence[ArmResult]) -> None:
    """A dot a seed, and the mean with its interval."""
    arms = [arm for arm in ARMS if any(r.arm == arm for r in results)]
    for row, arm in enumerate(arms):
        points = [100 * r.test.score for r in results if r.arm == arm]
        found = estimate(points)
        axes.errorbar(found.mean, row, xerr=found.half or 0.0, fmt="o", color="C0", capsize=4)
        axes.plot(points, [row + 0.22] * len(points), ".", color="0.55", markersize=5)
    axes.set_yticks(range(len(arms)), [ARMS[arm].title for arm in arms])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("held-out score, points (95 % interval over seeds; a dot a seed)")


def draw_curve(axes: Axes, results: Sequence[ArmResult], name: str) -> None:
    """One line a seed, one colour an arm."""
    for number, arm in enumerate(ARMS):
        lines = [r.curves[name] for r in results if r.arm == arm and name in r.curves]
        for k, line in enumerate(lines):
            steps, values = zip(*line, strict=True)
            axes.plot(steps, values, color=f"C{number}", linewidth=1, label=ARMS[arm].title if k == 0 else None)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=7)
