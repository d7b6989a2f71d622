"""The `srl-rlvr` command.

Exit codes: 0 registered, 3 refused by the gate, 1 failed, 2 wrong usage, 130 interrupted. Nothing heavy is imported before
a command needs it.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from pipelines.drift_command import drift
from pipelines.improvement_commands import IMPROVEMENT
from pipelines.operations.commands import OPERATIONS
from pipelines.service_commands import COMMANDS

EXIT_CODES = {"registered": 0, "refused": 3, "stale": 3, "failed": 1}
INTERRUPTED = 130


class Group(click.Group):
    """Commands by name, with the nearest where one is unknown."""

    def resolve_command(self, ctx: click.Context, args: list[str]):
        from components.shared.contracts.errors import unknown

        if args and self.get_command(ctx, args[0]) is None:
            raise unknown("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit; a failure is one line on standard error."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(guarded(lambda: cli.main(args=argv, prog_name="srl-rlvr", standalone_mode=False)))


def guarded(command: Callable[[], Any]) -> int:
    """Run a command and return the process's exit code."""
    from components.shared.contracts.errors import PipelineError

    try:
        return command() or 0
    except PipelineError as error:
        return said(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f": see {context.command_path} --help" if context else ""
        return said(" ".join(error.format_message().split()).rstrip(".") + hint, error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return said("interrupted: what was finished is kept", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return said(f"{error.strerror or error}{where}: make room or give permission, and run again", 1)
    except Exception as error:
        traceback.print_exc()
        return said(f"{type(error).__name__}: {error}: this is a fault of the program, please report it", 1)


def printer() -> Any:
    """Standard output as tables need it; a file or a pipe has no width of its own."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = 100
    return console


def said(message: str, code: int) -> int:
    click.echo(f"error: {message}", err=True)
    return code


def runs_folder() -> Path:
    """Where runs, the store and MLflow's database lie: SRL_RLVR_RUNS, or runs/ here."""
    return Path(os.environ.get("SRL_RLVR_RUNS", "runs"))


tier_option = click.option(
    "--tier", metavar="TIER", help="bronze, silver or gold, for post_training and distillation. [default: bronze]"
)
env_option = click.option(
    "--env", "environment", default="local", show_default=True, help="File of configs/environments/."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="srl-rlvr")
def cli() -> None:
    """Make a game's language models better every night, and never worse."""


for command in (*COMMANDS, *OPERATIONS, *IMPROVEMENT, drift):
    cli.add_command(command)


@cli.command()
@click.argument("dag", required=False)
@env_option
@tier_option
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="stage.key=value, task.key=value or parameter=value; may be repeated.",
)
@click.option(
    "--engine",
    default="local",
    show_default=True,
    help="local; docker: in containers; sagemaker-local: its SageMaker definition on this machine; or sagemaker: in the "
    "environment's account.",
)
@click.option("--run-id", help="Id of the run. [default: DAG-MODELTYPE-DATE-TIME]")
@click.option("--resume", "resumed", metavar="ID", help="Go on with a run that was killed, stopped or failed.")
@click.option("--explain-cache", is_flag=True, help="Say of each stage that has to run what changed since it last ran.")
@json_option
def run(
    dag: str | None,
    environment: str,
    tier: str | None,
    assignments: tuple[str, ...],
    engine: str,
    run_id: str | None,
    resumed: str | None,
    explain_cache: bool,
    as_json: bool,
) -> int:
    """Run a DAG: nightly (the default), post_training or distillation."""
    from rich.console import Console

    from pipelines import launch, results
    from pipelines.display import display

    console = Console(stderr=True)
    options: dict[str, Any] = {"runs": runs_folder(), "display": lambda folder: display(folder, console, explain_cache)}
    if resumed is not None:
        refuse_with_resume(dag=dag, tier=tier, assignments=assignments, run_id=run_id)
        finished = launch.resume(resumed, **options)
    else:
        dag = dag or "nightly"
        finished = launch.start(
            dag,
            engine=engine_of(engine),
            environment=environment,
            tier=tier_of(dag, tier),
            assignments=assignments,
            run_id=run_id,
            **options,
        )
    if as_json:
        click.echo(json.dumps(described(finished.folder), indent=1))
    else:
        results.show(finished.folder, printer())
    if finished.package:
        click.echo(f"package {finished.package}", err=as_json)
    if finished.tracking_failure:
        note = "it is spooled in the run's folder; the next run hands it over, or srl-rlvr track"
        click.echo(f"note: MLflow does not hold everything: {finished.tracking_failure}: {note}", err=True)
    if finished.outcome == "failed":
        click.echo(f"error: {results.headline(finished.folder.state)}", err=True)
    return EXIT_CODES[finished.outcome]


@cli.command("runs")
@json_option
def list_runs(as_json: bool) -> None:
    """List the runs, latest first."""
    from rich.table import Table

    from pipelines.engines.run_folder import all_runs

    folders = all_runs(runs_folder())
    if as_json:
        click.echo(json.dumps([described(folder) for folder in folders], indent=1))
        return
    table = Table("run", "started", "environment", "status")
    for folder in folders:
        state = folder.state
        table.add_row(state.run_id, f"{state.started:%Y-%m-%d %H:%M:%S}", state.environment, folder.status)
    printer().print(table)


@cli.command()
@click.argument("run_id", metavar="RUN")
@json_option
def status(run_id: str, as_json: bool) -> None:
    """Show where a run stands, and its results once they are there."""
    from pipelines import launch, results
    from pipelines.engines.run_folder import RunFolder

    folder = RunFolder.open(runs_folder(), run_id)
    if folder.state.execution and folder.state.outcome is None and (elsewhere := launch.remote(folder)):
        engine, dag = elsewhere
        engine.refresh(dag, folder)
    if as_json:
        click.echo(json.dumps(described(folder), indent=1))
        return
    results.show(folder, printer())
    click.echo(f"  {'status':<14} {folder.status}")


@cli.command()
@click.argument("run_id", metavar="RUN")
@click.argument("stage")
def logs(run_id: str, stage: str) -> None:
    """Print what a stage of a run printed."""
    from components.shared.contracts.errors import unknown
    from pipelines import launch
    from pipelines.engines.run_folder import RunFolder

    folder = RunFolder.open(runs_folder(), run_id)
    if stage not in folder.state.tasks:
        raise unknown(f"stage of {folder.state.dag}", stage, folder.state.tasks)
    log = folder.log(stage)
    if folder.state.tasks[stage].job and (elsewhere := launch.remote(folder)):
        for line in elsewhere[0].logs(folder, stage):
            click.echo(line)
    elif log.is_file():
        click.echo(log.read_text(encoding="utf-8", errors="replace"), nl=False)
    else:
        click.echo(f"{stage} printed nothing in this run: it is {folder.state.tasks[stage].status}", err=True)


@cli.command()
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--nightly", is_flag=True, help="The morning report: what a night ran, changed and cost, and what waits.")
@click.option("--night", metavar="YYYY-MM-DD", help="Which night, with --nightly. [default: the latest]")
@env_option
@click.option("--production", is_flag=True, help="Production validation: rollouts, latency, savings.")
@click.option(
    "--serving",
    metavar="DIR|s3://...",
    help="The router's folder, or a day of what it shipped. [default: where router.yaml says]",
)
@click.option(
    "--decisions", type=click.Path(path_type=Path), help="The router's decision lines. [default: in its folder]"
)
@click.option("--router", type=click.Path(path_type=Path), help="[default: configs/serving/router.yaml]")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write. [default: in the run's folder]"
)
def report(
    run_id: str | None,
    nightly: bool,
    night: str | None,
    environment: str,
    production: bool,
    serving: str | None,
    decisions: Path | None,
    router: Path | None,
    out: Path | None,
) -> None:
    """Write a run's, a night's or production's report, one HTML page that needs no network, and print where it lies."""
    from components.shared.contracts.errors import UsageError
    from pipelines import results
    from pipelines.report import written

    if (run_id is not None) + nightly + production != 1:
        raise UsageError("report what? Pass a RUN, --nightly or --production")
    if nightly:
        path = written.night(runs_folder(), environment, night, out)
    elif production:
        path = written.production_page(runs_folder(), router, serving, decisions, out)
    else:
        path = written.run(runs_folder(), str(run_id), out)
    click.echo(str(results.shortest(path)))


@cli.command()
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
@json_option
def compare(first: str, second: str, as_json: bool) -> None:
    """Show in what two runs differ: where they part, what was set, scores, gates, time."""
    from pipelines.engines.run_folder import RunFolder
    from pipelines.report import comparison

    found = comparison.compare(*(RunFolder.open(runs_folder(), run_id) for run_id in (first, second)))
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    comparison.show(found, printer())


@cli.command()
@click.argument("run_id", metavar="RUN")
def stop(run_id: str) -> None:
    """Stop a run; what was finished is kept, and `run --resume` goes on from there."""
    from components.shared.contracts.errors import UsageError
    from pipelines import launch
    from pipelines.engines.run_folder import RunFolder

    folder = RunFolder.open(runs_folder(), run_id)
    if folder.state.execution and folder.state.outcome is None and (elsewhere := launch.remote(folder)):
        elsewhere[0].stop(folder)
        return
    holder = folder.holder
    if holder is None:
        raise UsageError(f"run {run_id!r} is not at work: it is {folder.status}")
    os.kill(holder, signal.SIGTERM)


@cli.command("compile")
@click.argument("dag", required=False)
@click.option("--target", default="kfp", show_default=True, help="kfp, sagemaker, monitoring or all.")
@env_option
@tier_option
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("build"), show_default=True)
@click.option("--graph", is_flag=True, help="Draw the SageMaker pipeline too, as SVG.")
def compile_command(dag: str | None, target: str, environment: str, tier: str | None, out: Path, graph: bool) -> None:
    """Compile a DAG, or all of them, for a Kubeflow cluster, for SageMaker Pipelines, or for both.

    `monitoring` are the dashboards and alarms of CloudWatch, which belong to no DAG.
    """
    from components.shared.storage.artifacts import write_text
    from pipelines.compilers.collection import collection_files
    from pipelines.compilers.monitoring import monitoring_files
    from pipelines.compilers.outputs import compiled_files
    from pipelines.compilers.selection import selection_files
    from pipelines.definitions.catalogue import DAGS

    files: dict[str, str] = {}
    if target in ("monitoring", "all"):
        files |= {f"monitoring/{name}": text for name, text in monitoring_files().items()}
    for name in [dag] if dag else DAGS:
        given = tier if dag or name != "nightly" else None
        files |= compiled_files(name, tier_of(name, given), environment, target, graph)
    if dag is None and target in ("sagemaker", "all"):
        files |= selection_files(environment) | collection_files(environment)
    for name, text in files.items():
        write_text(out / name, text)
        click.echo(str(out / name))


@cli.command()
@env_option
@json_option
def doctor(environment: str, as_json: bool) -> int:
    """Check that this machine has what a run needs."""
    import dataclasses

    from pipelines.doctor import examine

    findings = list(examine(environment, runs_folder()))
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
    else:
        console = printer()
        for finding in findings:
            mark = "[green]✓[/]" if finding.sound else "[red]✗[/]"
            console.print(f"{mark} {finding.check:<12} {finding.detail}", highlight=False, soft_wrap=True)
    return 0 if all(finding.sound for finding in findings) else 1


def described(folder: Any) -> dict[str, Any]:
    """A run as machines read it: its state, how it stands, and what it measured."""
    from pipelines.results import results

    return {**folder.state.model_dump(mode="json"), "status": folder.status, "results": results(folder)}


def tier_of(dag: str, tier: str | None) -> Any:
    """The tier to run or compile for; raises UsageError for an unknown one, or where the DAG takes none."""
    from components.shared.contracts.errors import UsageError, unknown
    from components.shared.contracts.records import Tier

    names = [known.value for known in Tier]
    if tier is not None and tier not in names:
        raise unknown("tier", tier, names)
    if tier is not None and dag == "nightly":
        raise UsageError(f"--tier {tier}: nightly goes through all three tiers: leave --tier out")
    return Tier(tier or Tier.BRONZE)


def engine_of(name: str) -> Any:
    """The engine by name; raises UsageError with the nearest for an unknown one."""
    from components.shared.contracts.errors import unknown
    from pipelines.engines.engine import EngineName

    if name not in list(EngineName):
        raise unknown("engine", name, list(EngineName))
    return EngineName(name)


def refuse_with_resume(**given: Any) -> None:
    """A resumed run goes on as it began."""
    from components.shared.contracts.errors import UsageError

    for name, value in given.items():
        if value:
            option = {"dag": "DAG", "assignments": "--set"}.get(name, f"--{name.replace('_', '-')}")
            raise UsageError(f"--resume goes on with the run as it was started: leave out {option}")
