"""A DAG of the data stages alone, which one image runs: generation -> verification -> validation."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from components.shared.contracts.records import Tier
from pipelines.compilers.kubeflow import CompiledDag, compile_definition
from pipelines.configuration import load_settings
from pipelines.definitions.composer import Composer, pipeline
from pipelines.engines.local import LocalEngine
from pipelines.engines.process import Runner
from pipelines.engines.run_folder import RunFolder, RunState
from pipelines.engines.stage_store import StageStore

SMALL = (
    "trajectory_generation.counts={train: 20, validation: 4, test: 8}",
    "data_validation.min_train=4",
    "data_validation.min_test=4",
)


def define(compose: Composer):
    defaults = compose.settings.defaults

    @pipeline("data")
    def data(
        model_type: str = defaults["model_type"],
        world: str = defaults["world"],
        seed: int = defaults["seed"],
        threshold: float = defaults["threshold"],
        accepted: str = defaults["accepted"],
    ):
        """Writes, verifies and validates trajectories."""
        made = compose.task(
            "trajectory_generation", "trajectory_generation", model_type=model_type, world=world, seed=seed
        )
        trajectories = made.outputs["trajectories"]
        checked = compose.task("verification", "verification", trajectories=trajectories, threshold=threshold)
        compose.task("data_validation", "data_validation", verified=checked.outputs["verified"], accepted=accepted)

    return data


def compiled(assignments: Sequence[str] = SMALL) -> CompiledDag:
    return compile_definition("data", define, Composer(load_settings("test", Tier.BRONZE, assignments)))


def run_data(runs: Path, run_id: str, runner: Runner, assignments: Sequence[str] = SMALL) -> RunFolder:
    """One whole run of the DAG under the local engine, its stages where `runner` runs them."""
    now, uri = datetime.now(UTC), f"sqlite:///{runs / 'mlflow' / 'mlflow.db'}"
    state = RunState(run_id=run_id, dag="data", environment="test", tier=Tier.BRONZE, tracking_uri=uri, started=now)
    folder = RunFolder.create(runs, state)
    engine = LocalEngine(
        store=StageStore(runs / "store"),
        environment={"MLFLOW_TRACKING_URI": uri},
        effect_holds=lambda report: True,
        on_report=lambda task, report, seconds: None,
        runner=runner,
    )
    engine.run(compiled(assignments), {}, folder)
    return folder
