"""A run as one HTML page that needs nothing else: no network, no script; styles and drawings are in it.

Everything that came from a run is escaped. The page is written beside run.json, so that it travels with the run.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from components.shared.contracts.records import Outcome
from components.shared.selection.prices import load_prices
from components.shared.storage.artifacts import write_text
from pipelines.display import clock
from pipelines.engines.run_folder import RunFolder, TaskState, TaskStatus
from pipelines.report.costs import spent
from pipelines.report.drawings import curve_svg, rail_svg, shown
from pipelines.report.facts import Curve, Rollout, RunFacts, TaskFacts, read_run
from pipelines.report.weaknesses import weaknesses
from pipelines.results import FINISHED, headline, next_steps

TEMPLATE, STYLE = (Path(__file__).with_name(name) for name in ("page.html.j2", "page.css"))
FILE = "report.html"
ASKED = {
    "reward": "mean of the rollouts",
    "loss": "supervised, weighted by step rewards",
    "policy_loss": "",
    "value_loss": "",
    "forward_kl": "from the teacher, nats a token",
    "onpolicy_divergence": "from the teacher, on the student's own words",
    "nll": "of the expert's words, nats a token",
    "kl": "to the reference, nats a token",
    "kl_probe": "to the reference, probe set",
    "entropy": "nats a token",
}
"""Curves that people ask for first, in this order, with what the name leaves open; the others unfold."""
READ = 6
"""Rollouts of each kind shown of a task."""
SUBJECTS = {"candidate", "student"}
"""Roles that a gate decides about."""
MARKS = {Outcome.REGISTERED: "good", Outcome.REFUSED: "held", Outcome.STALE: "held", Outcome.FAILED: "bad"}


def write_page(folder: RunFolder, target: Path | None = None) -> Path:
    """Write the run's page to `target`, by default report.html in its folder; returns where it lies."""
    path = target or folder.path / FILE
    write_text(path, render(folder))
    return path


def render(folder: RunFolder) -> str:
    """The page's HTML."""
    run = read_run(folder)
    return html(
        TEMPLATE,
        run=run,
        state=run.state,
        mark=MARKS.get(run.state.outcome, "held") if run.state.outcome else "held",
        lede=headline(run.state).partition(": ")[2] or headline(run.state),
        next_steps=next_steps(folder),
        changes=changes(run),
        waiting=waiting(run),
        cost=cost(run),
        spent=spent(folder, load_prices()),
        rail=rail_svg({t.name: t.state.after for t in run.tasks}, {t.name: t.state.status for t in run.tasks}),
        rows=[row(run, task) for task in run.tasks],
        judged=[judged(task) for task in run.tasks if "policies" in task.details],
        weak=weaknesses(folder),
        curves=[c for task in run.tasks if (c := curves(task))["telling"] or c["more"]],
        rollouts=[r for task in run.tasks if (r := rollouts(task))["good"] or r["bad"]],
        quality=quality(run),
        lineage=[lineage(run, task) for task in run.tasks if task.report],
    )


def html(template: Path, **values: Any) -> str:
    """A template of this folder with `values`, the style sheet in it."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"clock": clock, "number": number, "percent": percent, "signed": signed, "words": words}
    style = Markup(STYLE.read_text(encoding="utf-8"))
    return environment.from_string(template.read_text(encoding="utf-8")).render(style=style, **values)


def changes(run: RunFacts) -> list[str]:
    """What is otherwise than before the run, a line each; then what a gate kept as it was."""
    lines = []
    for task in run.of_stage("registration"):
        gain = gain_of(run, task)
        by = f", a gain of {signed(gain)} held-out score over the champion before" if gain else ""
        lines.append(
            f"{version(task)} is {'the ' + str(task.details['alias']) if task.details.get('alias') else 'kept'}{by}"
        )
    for task in run.tasks:
        gate = task.details.get("gate")
        if gate and not gate["accepted"]:
            name, criterion = min(gate["criteria"].items(), key=lambda item: item[1]["margin"])
            lines.append(
                f"{task.name} keeps the champion: {words(name)} is {criterion['value']:.3f} by its lower bound, "
                f"{criterion['bound']:.3f} needed"
            )
    return lines


def waiting(run: RunFacts) -> list[str]:
    """Versions that a person has to look at before they serve."""
    return [
        f"{version(task)}: read its card in the registry, then give it the alias champion"
        for task in run.of_stage("registration")
        if task.details.get("alias") == "challenger"
    ]


def version(task: TaskFacts) -> str:
    return f"{task.details['name']} version {task.details['version']}"


def gain_of(run: RunFacts, registration: TaskFacts) -> Mapping[str, float] | None:
    """What the registered policy gained on the champion, by the report that spoke for it."""
    judge = run.makers.get(registration.inputs.get("evidence", ""))
    details = next((task.details for task in run.tasks if task.name == judge), {})
    found = details.get("gains", {}).get("champion") or details.get("gain_over_champion")
    return found if isinstance(found, dict) else None


def cost(run: RunFacts) -> dict[str, Any]:
    """Time and memory. Only what was spent by this run counts: a cached stage cost an earlier one."""
    worked = [task for task in run.tasks if task.state.status != TaskStatus.CACHED]
    return {
        "wall": (run.state.finished - run.state.started).total_seconds() if run.state.finished else None,
        "cpu": sum(task.state.cpu_seconds or 0 for task in worked),
        "peak": max((task.state.peak_mib or 0 for task in worked), default=0),
        "saved": sum(task.state.seconds or 0 for task in run.tasks if task.state.status == TaskStatus.CACHED),
    }


def row(run: RunFacts, task: TaskFacts) -> dict[str, Any]:
    """A task's line of the DAG, with its bar on the run's time axis in percent."""
    state = task.state
    said = {TaskStatus.SKIPPED: "behind a gate that stayed shut", TaskStatus.FAILED: state.error or "failed"}
    return {
        "name": task.name,
        "status": state.status,
        "time": clock(state.seconds) if state.seconds is not None and state.status in FINISHED else "",
        "detail": said.get(state.status) or (task.report.summary if task.report else str(state.status)),
        "bar": bar(run, state),
        "usage": f"CPU {clock(state.cpu_seconds)} · {state.peak_mib:.0f} MiB"
        if state.cpu_seconds and state.peak_mib
        else "",
    }


def bar(run: RunFacts, task: TaskState) -> tuple[float, float] | None:
    """Left edge and width in percent of the run's time; none for a task that took no time in this run."""
    if task.started is None or task.seconds is None or task.status not in (TaskStatus.DONE, TaskStatus.FAILED):
        return None
    ends = [t.state.started.timestamp() + (t.state.seconds or 0) for t in run.tasks if t.state.started]
    start = run.state.started.timestamp()
    end = max(*ends, run.state.finished.timestamp() if run.state.finished else start, start + 1e-3)
    return 100 * (task.started.timestamp() - start) / (end - start), 100 * task.seconds / (end - start)


def judged(task: TaskFacts) -> dict[str, Any]:
    """The policies that a task compared, what was gained, and its gate."""
    details = task.details
    gains = {f"over {role}": found for role, found in details.get("gains", {}).items()}
    if "gain_over_champion" in details:
        gains["over champion"] = details["gain_over_champion"]
    reach = max((max(abs(g["low"]), abs(g["high"])) for g in gains.values()), default=1.0) or 1.0
    return {
        "name": task.name,
        "policies": [
            {"role": role, "subject": role in SUBJECTS, **scores} for role, scores in details["policies"].items()
        ],
        "gains": [
            {
                "name": name,
                **found,
                "at": {key: 50 + 48 * found[key] / reach for key in ("low", "mean", "high")},
                "sure": found["low"] > 0 or found["high"] < 0,
            }
            for name, found in gains.items()
        ],
        "retention": details.get("retention"),
        "gate": details.get("gate"),
        "disagreement": details.get("disagreement", {}),
    }


def curves(task: TaskFacts) -> dict[str, Any]:
    """A task's curves: those that people ask for, and the rest."""
    drawn = {c.name: drawing(c, task.config) for c in task.curves if len(c.steps) > 1 and max(c.values) > min(c.values)}
    return {
        "name": task.name,
        "telling": [drawn[name] for name in ASKED if name in drawn],
        "more": [found for name, found in drawn.items() if name not in ASKED],
    }


def drawing(curve: Curve, config: Mapping[str, Any]) -> dict[str, Any]:
    """A curve with its heading; a KL is drawn with the ceiling that the stage was configured with."""
    ceiling = config.get("max_kl") if curve.name in ("kl", "kl_probe") else None
    return {
        "name": words(curve.name),
        "said": ASKED.get(curve.name, ""),
        "last": shown(curve.values[-1]),
        "svg": curve_svg(curve, ceiling),
    }


def rollouts(task: TaskFacts) -> dict[str, Any]:
    """A few rollouts of both kinds, the worst of the bad ones first."""

    def rank(rollout: Rollout) -> tuple[float, int]:
        return (rollout.score if rollout.score is not None else 0.0, -len(rollout.faults))

    bad = sorted((r for r in task.rollouts if not r.good), key=rank)
    return {"name": task.name, "good": [r for r in task.rollouts if r.good][:READ], "bad": bad[:READ]}


def quality(run: RunFacts) -> dict[str, Any] | None:
    """The data behind the run: what was read, kept and refused, and how far it moved from the last accepted night."""
    found = run.of_stage("data_validation")
    if not found:
        return None
    task = found[0]
    counts, report = task.details, task.report
    tables = [
        ("Refused here, by rule", counts.get("rules", {})),
        ("Refused earlier, by stage and rule", counts.get("carried", {})),
        ("Training trajectories by class", counts.get("classes", {})),
        ("Training trajectories by teacher", counts.get("sources", {})),
        *(
            ("Scenarios by the attempt that passed", stage.details.get("passed_at", {}))
            for stage in run.of_stage("trajectory_generation")
        ),
    ]
    metrics = report.metrics if report else {}
    return {
        "summary": report.summary if report else "",
        "fates": {what: counts[what] for what in ("trajectories", "scenarios") if what in counts},
        "tables": [(title, bars(table)) for title, table in tables if table],
        "drift": {name.removeprefix("psi_"): value for name, value in metrics.items() if name.startswith("psi_")},
    }


def bars(table: Mapping[str, int], most: int = 8) -> list[tuple[str, int, float]]:
    """Names with counts and the width of their bar in percent, the largest first; the rest is summed up without a bar."""
    ranked = sorted(table.items(), key=lambda item: (-item[1], item[0]))
    widest = ranked[0][1] if ranked and ranked[0][1] else 1
    found = [(name, count, 100 * count / widest) for name, count in ranked]
    if len(found) <= most:
        return found
    rest = ranked[most - 1 :]
    return [*found[: most - 1], (f"{len(rest)} others", sum(count for _, count in rest), 0.0)]


def lineage(run: RunFacts, task: TaskFacts) -> dict[str, Any]:
    """What a task read, from whom, what it made, and the configuration that it ran with."""
    return {
        "name": task.name,
        "inputs": [(name, digest, run.makers.get(digest, "from outside")) for name, digest in task.inputs.items()],
        "outputs": sorted(task.outputs.items()),
        "config": json.dumps(task.config, indent=1, ensure_ascii=False),
        "key": task.state.key,
    }


def signed(found: Mapping[str, float]) -> str:
    """A difference with its interval."""
    return f"{found['mean']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def number(value: Any) -> str:
    return f"{value:,}"


def percent(value: float) -> str:
    """A share as a CSS length or as people read it."""
    return f"{value:.2f}%"


def words(name: str) -> str:
    return name.replace("_", " ")
