"""Which report is written from what, and where it goes."""

from pathlib import Path

from components.shared.contracts.errors import UsageError
from components.shared.selection.selection_history import SelectionHistory
from components.shared.serving.router_config import load_router_config
from components.shared.storage.paths import configs_root
from components.shared.storage.places import fetched
from pipelines.configuration import load_settings
from pipelines.engines.run_folder import RunFolder, all_runs
from pipelines.report.night import local_night, remote_night, write_night
from pipelines.report.page import write_page
from pipelines.report.production import production, write_production

DECISIONS = "decisions.jsonl"


def run(runs: Path, run_id: str, out: Path | None) -> Path:
    """A run's page, in its folder unless told otherwise."""
    return write_page(RunFolder.open(runs, run_id), out)


def night(runs: Path, environment: str, night: str | None, out: Path | None) -> Path:
    """A night's page, from the folder of runs or, for an environment with an account, from what its state machine kept."""
    settings = load_settings(environment)
    found = remote_night(settings, night) if settings.environment.sagemaker else local_night(runs, night)
    return write_night(found, out or runs / f"night-{found.night}.html")


def production_page(
    runs: Path, router: Path | None, serving: str | None, decisions: Path | None, out: Path | None
) -> Path:
    """The production page of one router, its folder on this machine or on S3."""
    config = load_router_config(router or configs_root() / "serving" / "router.yaml")
    tables = SelectionHistory.beside(config.path(config.selection)).tables()
    if decisions is not None and not decisions.is_file():
        raise UsageError(f"no file {decisions}: pass the router's standard output as --decisions")
    with fetched(serving or str(config.state)) as folder:
        file = decisions or folder / DECISIONS
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        found = production(folder, lines, tables, config.choice, all_runs(runs))
    return write_production(found, out or runs / "production.html")
