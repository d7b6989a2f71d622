"""A DAG of three small stages, for tests of what runs DAGs: grow -> judge -> [margin >= 0] -> enroll.

The stages are real ones: they go through the entry point, seal their outputs and are started as subprocesses. As a program
(`python -m toys RUNS RUN_ID [KEY=VALUE]...`) it is one whole run, which a test can kill.
"""

import json
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from kfp import dsl
from toy_stage import spec_of

from components.shared.contracts.records import Tier
from pipelines.cli import guarded
from pipelines.compilers.kubeflow import CompiledDag, compile_definition
from pipelines.configuration import Environment, Settings, parse_assignments
from pipelines.definitions.composer import Composer, pipeline
from pipelines.engines.local import LocalEngine
from pipelines.engines.run_folder import RunFolder, RunState
from pipelines.engines.stage_store import StageStore


def define(compose: Composer):
    defaults = compose.settings.defaults

    @pipeline("toys")
    def toys(seed: int = defaults["seed"]):
        """Grows, judges and enrolls."""
        grown = compose.task("grow", "grow", seed=seed)
        judged = compose.task("judge", "judge", seeds=grown.outputs["seeds"], seed=seed)
        with dsl.If(judged.outputs["margin"] >= 0.0, name="accepted"):
            compose.task("enroll_toy", "enroll", policy=judged.outputs["policy"], evidence=judged.outputs["report"])

    return toys


def compiled(assignments: Sequence[str] = ()) -> CompiledDag:
    environment = Environment(image_registry="toys", image_tag="1")
    layers = (environment, parse_assignments(assignments))
    settings = Settings(name="toys", tier=Tier.BRONZE, environment=environment, layers=layers)
    return compile_definition("toys", define, Composer(settings, spec_of, ("python", "-m", "toy_stage")))


def toy_folder(runs: Path, run_id: str) -> RunFolder:
    if (runs / run_id).exists():
        return RunFolder.open(runs, run_id)
    now = datetime.now(UTC)
    state = RunState(
        run_id=run_id, dag="toys", environment="toys", tier=Tier.BRONZE, tracking_uri="sqlite:///none", started=now
    )
    return RunFolder.create(runs, state)


def toy_engine(runs: Path, reported: list | None = None) -> LocalEngine:
    registry = runs / "registry.txt"

    def effect_holds(report: Path) -> bool:
        digest = json.loads((report / "report.json").read_text())["details"]["policy"]
        return registry.exists() and digest in registry.read_text()

    def on_report(task, report, seconds):
        if reported is not None:
            reported.append((task, report))

    return LocalEngine(
        store=StageStore(runs / "store"),
        environment={"TOY_REGISTRY": str(registry)},
        effect_holds=effect_holds,
        on_report=on_report,
    )


def run_toys(runs: Path, run_id: str, assignments: Sequence[str] = ()):
    folder = toy_folder(runs, run_id)
    with folder.locked():
        toy_engine(runs).run(compiled(assignments), {}, folder)
    return folder


def main() -> int:
    runs, run_id, *assignments = sys.argv[1:]
    folder = run_toys(Path(runs), run_id, assignments)
    return {"registered": 0, "refused": 3}.get(str(folder.state.outcome), 1)


if __name__ == "__main__":
    # A shell that starts its jobs in the background has them ignore ctrl-C, and so would what they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(guarded(main))
