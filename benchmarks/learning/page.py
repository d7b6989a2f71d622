"""docs/learning.md, written from the results: whatever there is, and what is missing said."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean

from benchmarks.learning.bench import SFT_RATE
from benchmarks.learning.estimates import Estimate, difference, estimate, relative_gain, verdict
from benchmarks.learning.plan import ARMS, LEARN, LEARN_FULL, Job
from benchmarks.learning.plot import draw
from benchmarks.learning.results import ArmResult, read_results
from benchmarks.learning.search import SFT_SECONDS, SFT_SEED, RLVRTrial, read_trials
from components.shared.contracts.errors import PipelineError
from components.shared.storage.artifacts import write_text

NOTES = Path(__file__).with_name("notes.md")
"""What people make of the figures; they are added to the page as they are."""
COMPARISONS = (
    ("srl", "base"),
    ("srl", "sft"),
    ("srl_rlvr", "srl"),
    ("srl_rlvr", "sft_rlvr"),
    ("srl_rlvr", "rlvr"),
    ("srl_rlvr", "more_sft"),
    ("srl_rlvr", "srl_rlvr_no_kl"),
    ("similarity", "srl"),
    ("similarity_rlvr", "srl_rlvr"),
    ("srl_ppo", "srl_rlvr"),
)
HOPES = (("srl", "base", 0.20), ("srl_rlvr", "srl", 0.10), ("srl_rlvr", "sft_rlvr", 0.0))
"""Arm, the arm it is compared with, and the relative gain hoped for."""
FORGETTING = ("base", "srl", "srl_rlvr", "srl_rlvr_no_kl")

HEAD = """# What training teaches

`make learn` measures this and writes this page; `make learn-full` adds every model type, both readings of SRL and PPO. Both
go on where they were stopped. The results lie in `benchmarks/learning/results/`.

**How.** A seed makes its own demonstrations, scenarios, order and samples; the base model is one. Every stage is a process
of its own, as `make run` starts it and with its configuration. *CPU s* are the processor seconds of those processes, their
start included; the load of the machine does not enter, but shared caches do. *SFT* is TRL's own SFTTrainer at the flags
that are best on a CPU (float32, no activation checkpointing, rows of like length together), on the token rows that SRL
gets, for as many CPU-seconds as SRL used; *more SFT* and *RLVR alone* have those of SRL → RLVR together. The rest follows
from the configuration. What was chosen was chosen on validation scenarios. The test scenarios, whose groups were never
trained on, were answered once by each arm, greedily, and scored by the strict checker, which is not the reward.
Points are 100 x its mean score; ± is Student's 95 % interval over the seeds, of the differences by seed where two arms are
compared.
"""
SEARCH = f"""`python -m benchmarks.learning --search`: {SFT_SECONDS:.0f} CPU s at each rate on npc_dialogue, seed
{SFT_SEED}, which no plan holds; the arms use {SFT_RATE:g}.
"""
RLVR_SEARCH = """`python -m benchmarks.learning --search`: on npc_dialogue, seeds that no plan holds, each from its seed's
SRL policy; points on validation scenarios, greedily, at the best look of the training. The rest as in the configuration.
"""
RLVR_COLUMNS = ["settings", "seeds", "start", "best", "CPU s"]


def write_page(results: Path, docs: Path, identity: Callable[[Job], str]) -> str:
    """Write learning.md and its figures into `docs`; returns a line that says what the page is made of.

    `identity` gives the digest of a job's present configuration: results of another are shown, and counted as such.
    Raises PipelineError where there is no result at all.
    """
    found = list(read_results(results))
    if not found:
        raise PipelineError(f"no results in {results}: run python -m benchmarks.learning first")
    parts = [HEAD, *progress_of(found)]
    stale = sum(r.identity != identity(r.job) for r in found)
    if stale:
        parts.append(
            f"{stale} of {len(found)} results were measured with another configuration than the present one.\n"
        )
    for model_type in LEARN_FULL.model_types:
        mine = [r for r in found if r.model_type == model_type]
        if mine:
            figure = Path("images") / f"learning-{model_type}.svg"
            draw(mine, docs / figure)
            parts += [f"## {model_type}\n", f"![held-out scores, rewards and KL]({figure})\n", *sections(mine)]
    parts += searches(results)
    if NOTES.is_file():
        parts.append(NOTES.read_text(encoding="utf-8"))
    write_text(docs / "learning.md", "\n".join(parts))
    return f"{docs / 'learning.md'}: {len(found)} results"


def progress_of(found: Sequence[ArmResult]) -> Iterator[str]:
    """What is missing of the short plan, and whether the full one is there."""
    there = {r.job for r in found}
    missing = [job for job in LEARN.jobs() if job not in there]
    if missing:
        names = ", ".join(f"{ARMS[job.arm].title} on seed {job.seed}" for job in missing)
        done = sum(1 for _ in LEARN.jobs()) - len(missing)
        yield f"**Partial:** {done} of {done + len(missing)} results of `make learn` are there. Missing: {names}.\n"
    full = list(LEARN_FULL.jobs())
    done = sum(job in there for job in full)
    if done < len(full):
        yield f"Of `make learn-full`, {done} of {len(full)} results are there.\n"


def sections(found: Sequence[ArmResult]) -> Iterator[str]:
    """The tables of one model type."""
    yield arms_table(found)
    yield "**Compared by seed**\n"
    yield comparison_table(found)
    yield "**What was hoped for**\n"
    yield hopes_table(found)
    yield (
        "**Forgetting.** Held-out tasks of the model types that were not trained, and the text of their scripted experts, "
        "before and after each stage; the base was pre-trained on all of them. RLVR rewards none, so what it loses on "
        "them is forgetting; the control is the same RLVR without its KL penalty and ceiling.\n"
    )
    yield forgetting_table(found)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, all columns but the first right-aligned."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def arms_table(found: Sequence[ArmResult]) -> str:
    rows = []
    for arm, of_arm in by_arm(found):
        highest = [r.highest_kl for r in of_arm if r.highest_kl is not None]
        rows.append(
            [
                ARMS[arm].title,
                str(len(of_arm)),
                plus_minus(estimate([100 * r.test.score for r in of_arm])),
                plus_minus(estimate([100 * r.test.correct for r in of_arm])),
                plus_minus(estimate([100 * r.test.sampled for r in of_arm])),
                f"{max(highest):.3f}" if highest else "-",
                f"{estimate([r.updates for r in of_arm]).mean:.0f}",
                f"{estimate([r.cpu_seconds for r in of_arm]).mean:.0f}",
            ]
        )
    head = ["arm", "seeds", "points", "all right, %", "sampled, points", "KL, highest", "updates", "CPU s"]
    return table(head, rows)


def comparison_table(found: Sequence[ArmResult]) -> str:
    scores, costs = by_seed(found)
    rows = []
    for ours, theirs in COMPARISONS:
        points = difference(scores.get(ours, {}), scores.get(theirs, {}))
        gain = relative_gain(scores.get(ours, {}), scores.get(theirs, {}))
        cost = relative_gain(costs.get(ours, {}), costs.get(theirs, {}))
        if points is not None:
            rows.append(
                [
                    f"{ARMS[ours].title} against {ARMS[theirs].title}",
                    str(points.n),
                    signed(points),
                    signed(gain, 100) + " %" if gain else "-",
                    f"{1 + cost.mean:.2f}" if cost else "-",
                ]
            )
    return table(["", "seeds", "points", "relative", "CPU s, ratio"], rows)


def hopes_table(found: Sequence[ArmResult]) -> str:
    scores, _ = by_seed(found)
    rows = []
    for ours, theirs, hoped in HOPES:
        gain = relative_gain(scores.get(ours, {}), scores.get(theirs, {}))
        what = f"{ARMS[ours].title} over {ARMS[theirs].title}: " + (f"+{100 * hoped:.0f} %" if hoped else "better")
        rows.append([what, signed(gain, 100) + " %" if gain else "-", verdict(gain, hoped) if gain else "not measured"])
    return table(["hope", "found", "verdict"], rows)


def forgetting_table(found: Sequence[ArmResult]) -> str:
    kinds = sorted({kind for r in found for kind in r.kept})
    rows = []
    for arm, of_arm in by_arm([r for r in found if r.arm in FORGETTING]):
        row = [ARMS[arm].title, str(len(of_arm))]
        for kind in kinds:
            kept = [r.kept[kind] for r in of_arm]
            row += [
                plus_minus(estimate([100 * k.accuracy for k in kept])),
                plus_minus(estimate([100 * k.score for k in kept])),
                plus_minus(estimate([k.nll for k in kept]), digits=3),
            ]
        rows.append(row)
    columns = [f"{kind}: {what}" for kind in kinds for what in ("all right, %", "points", "NLL, nats per token")]
    return table(["arm", "seeds", *columns], rows)


def searches(results: Path) -> Iterator[str]:
    """What the arms' settings were chosen by, as far as it was measured."""
    sft = results / "search.json"
    if sft.is_file():
        scores = json.loads(sft.read_text(encoding="utf-8"))
        rows = [[rate, f"{100 * score:.1f}"] for rate, score in scores.items()]
        yield from (
            "## SFT's learning rate\n",
            SEARCH,
            table(["learning rate", "points on validation scenarios"], rows),
        )
    trials = read_trials(results)
    if trials:
        yield from (
            "## RLVR's settings\n",
            RLVR_SEARCH,
            table(RLVR_COLUMNS, [*trial_rows(trials)]),
        )


def trial_rows(trials: Sequence[RLVRTrial]) -> Iterator[list[str]]:
    """A row a setting: its seeds' scores, and their mean."""
    for settings, group in groupby(trials, key=lambda t: t.settings):
        mine = list(group)
        best = [100 * t.best for t in mine]
        each = ", ".join(f"{score:.1f}" for score in best)
        start, seconds = fmean(100 * t.start for t in mine), fmean(t.cpu_seconds for t in mine)
        yield [settings, str(len(mine)), f"{start:.1f}", f"{fmean(best):.1f} ({each})", f"{seconds:.0f}"]


def by_arm(found: Sequence[ArmResult]) -> Iterator[tuple[str, list[ArmResult]]]:
    """The results of each arm that there is, in the order of the page."""
    for arm in ARMS:
        of_arm = [r for r in found if r.arm == arm]
        if of_arm:
            yield arm, of_arm


def by_seed(found: Sequence[ArmResult]) -> tuple[dict[str, dict[int, float]], dict[str, dict[int, float]]]:
    """Points, and CPU-seconds, by arm and seed."""
    scores = {arm: {r.seed: 100 * r.test.score for r in of_arm} for arm, of_arm in by_arm(found)}
    costs = {arm: {r.seed: r.cpu_seconds for r in of_arm} for arm, of_arm in by_arm(found)}
    return scores, costs


def plus_minus(found: Estimate, digits: int = 1) -> str:
    """`mean ± half`, the mean alone for one seed."""
    return f"{found.mean:.{digits}f}" + ("" if found.half is None else f" ± {found.half:.{digits}f}")


def signed(found: Estimate, scale: float = 1) -> str:
    """The same with a sign, scaled."""
    return f"{scale * found.mean:+.1f}" + ("" if found.half is None else f" ± {scale * found.half:.1f}")
