"""Commands of `srl-rlvr` that plan, deploy and look after what runs. Nothing heavy is imported before one runs.

Exit codes are the program's: 0 done, 3 refused (a plan over its budget, a version that is not to be promoted), 2 wrong
usage, 1 a fault.
"""

import getpass
import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from components.shared.contracts.errors import UsageError

REFUSED = 3
PATH = click.Path(path_type=Path)


def env_option(default: str | None = None) -> Any:
    """The environment; without a default it has to be named."""
    shown = {"default": default, "show_default": True} if default else {"required": True}
    return click.option("--env", "environment", help="File of configs/environments/.", **shown)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes_option = click.option("--yes", is_flag=True, help="Do it without asking; for machines.")


@click.command()
@click.argument("dag", required=False)
@env_option("prod")
@click.option("--tier", metavar="TIER", help="bronze, silver or gold, for post_training and distillation.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="As for run; may be repeated.")
@click.option(
    "--break-even", "question", type=PATH, metavar="FILE", help="When two measured policies break even, instead."
)
@json_option
def plan(
    dag: str | None,
    environment: str,
    tier: str | None,
    assignments: tuple[str, ...],
    question: Path | None,
    as_json: bool,
) -> int:
    """What a run needs and costs: hours, USD, quotas, memory. Refused (3) over the budget or where it does not fit."""
    from pipelines.cli import printer, runs_folder, tier_of

    if question is not None:
        return answer(question, as_json)
    from pipelines.configuration import load_settings
    from pipelines.operations import plan_table
    from pipelines.operations.month import Month, plan_calendar
    from pipelines.operations.nearest import nearest
    from pipelines.operations.plan import make_plan

    name = dag or "nightly"
    made = make_plan(name, environment, tier_of(name, tier), runs_folder(), assignments)
    nights = load_settings(environment).environment.nights if name == "nightly" else None
    month = None
    if nights:
        month = Month(environment=environment, nights=nights, plans=plan_calendar(environment, runs_folder()))
    found = nearest(made)
    if as_json:
        click.echo(json.dumps(plan_table.as_data(made, found, month), indent=1))
    else:
        plan_table.show(made, found, month, printer())
    return REFUSED if plan_table.refusals(made, month) else 0


def answer(question: Path, as_json: bool) -> int:
    from pipelines.cli import printer
    from pipelines.operations.break_even import break_even, break_even_table

    found = break_even(question)
    if as_json:
        click.echo(found.model_dump_json(indent=1))
    else:
        printer().print(break_even_table(found))
    return 0


@click.command()
@env_option()
@click.option("--build", type=PATH, default=Path("build"), show_default=True, help="Folder for what is compiled.")
@click.option("--plan-only", is_flag=True, help="Show what would change, and leave it at that.")
@click.option(
    "--without-pipelines", is_flag=True, help="A new account's first pass: roles, key and network, no pipeline."
)
@click.option("--despite-plan", is_flag=True, help="Although `srl-rlvr plan` refuses what would be deployed.")
@yes_option
def deploy(
    environment: str, build: Path, plan_only: bool, without_pipelines: bool, despite_plan: bool, yes: bool
) -> int:
    """Compile, show Terraform's plan, and apply it. Refused (3) where `plan` finds it over a budget, or not to fit."""
    from pipelines.cli import runs_folder
    from pipelines.operations import deploy as work

    deployment = work.Deployment(
        environment=environment,
        build=build,
        configuration=work.CONFIGURATION,
        without_pipelines=without_pipelines,
    )
    terraform = deployment.check()
    faults = deployment.faults(runs_folder())
    if faults and not despite_plan:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        click.echo(f"error: {faults[0]}{more}, or pass --despite-plan", err=True)
        return REFUSED
    for fault in faults:
        click.echo(f"despite the plan: {fault}")
    files = deployment.compile()
    click.echo(f"compiled {len(files) // 2} pipelines into {deployment.definitions}")
    if not deployment.plan(terraform, click.echo):
        click.echo(f"{environment} is deployed as it is compiled here: nothing to do")
        return 0
    if plan_only:
        return 0
    confirmed(f"Apply this to {environment}?", yes)
    deployment.apply(terraform, click.echo)
    if without_pipelines:
        click.echo(f"take this over into configs/environments/{environment}.yaml, then deploy the pipelines:\n")
        click.echo(deployment.settings(terraform))
    return 0


@click.command()
@click.argument("run_id", metavar="RUN")
def retry(run_id: str) -> int:
    """Let a failed or stopped run go on from where it failed."""
    from rich.console import Console

    from pipelines import launch
    from pipelines.cli import EXIT_CODES, runs_folder
    from pipelines.display import display
    from pipelines.engines.run_folder import RunFolder

    folder = RunFolder.open(runs_folder(), run_id)
    if folder.status == "running":
        raise UsageError(f"run {run_id!r} is at work: srl-rlvr status {run_id}, or stop {run_id}")
    if folder.state.outcome not in (None, "failed"):
        raise UsageError(f"run {run_id!r} did not fail: it is {folder.status}: start a new one")
    elsewhere = launch.remote(folder) if folder.state.execution else None
    if elsewhere is not None:
        elsewhere[0].retry(folder)
        folder.change(outcome=None, finished=None)
        click.echo(f"the execution goes on: srl-rlvr status {run_id}")
        return 0
    finished = launch.resume(run_id, runs=runs_folder(), display=lambda at: display(at, Console(stderr=True), False))
    click.echo(f"{run_id}: {finished.outcome}")
    return EXIT_CODES[finished.outcome]


@click.command()
@click.argument("what", metavar="MODELTYPE-TIER[:VERSION]|PACKAGE")
@env_option("local")
@click.option("--stale", is_flag=True, help="Although another champion came since it was compared.")
@json_option
def promote(what: str, environment: str, stale: bool, as_json: bool) -> int:
    """Make a version the champion: the one that waits, or the one named by number or by its package's ARN."""
    champions, version = champions_for(what, environment)
    return changed(champions.promote(version, person(), stale), as_json)


@click.command()
@click.argument("what", metavar="MODELTYPE-TIER")
@env_option("local")
@json_option
def rollback(what: str, environment: str, as_json: bool) -> int:
    """Give the place back to the champion before."""
    champions, version = champions_for(what, environment)
    if version is not None:
        raise UsageError(f"{what}: a roll-back goes to the champion before: to make a version champion, promote it")
    return changed(champions.roll_back(person()), as_json)


@click.command()
@click.argument("execution", metavar="EXECUTION")
@env_option()
@json_option
def package(execution: str, environment: str, as_json: bool) -> int:
    """Make the model package of an execution that was started by hand; what has one keeps it."""
    from pipelines.cli import runs_folder
    from pipelines.configuration import load_settings
    from pipelines.engines.sagemaker import real_account
    from pipelines.launch import registry_of, tracking_uri
    from pipelines.operations.package import package as make
    from pipelines.operations.preflight import check_identity

    settings = load_settings(environment)
    check_identity(real_account(settings), environment)
    made = make(
        execution, settings, registry_of(settings.environment, tracking_uri(settings.environment, runs_folder()))
    )
    click.echo(json.dumps({"package": made.arn, "standing": made.standing}) if as_json else made.line)
    return 0


def champions_for(what: str, environment: str) -> Any:
    from pipelines.cli import runs_folder
    from pipelines.configuration import load_settings
    from pipelines.launch import tracking_uri
    from pipelines.operations.promotion import champions_of

    settings = load_settings(environment)
    return champions_of(what, settings, tracking_uri(settings.environment, runs_folder()))


def changed(change: Any, as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps({"name": change.name, "now": change.now, "before": change.before, "note": change.note}))
    else:
        note = f" ({change.note})" if change.note else ""
        click.echo(f"{change.name}: {change.now} serves; before it {change.before or 'the base policy'}{note}")
    return 0


def person() -> str:
    """Who types this, for the record."""
    return os.environ.get("SRL_RLVR_APPROVER") or getpass.getuser()


@click.command()
@click.argument("what", metavar="RUN|EXECUTION")
@env_option("prod")
@json_option
def triage(what: str, environment: str, as_json: bool) -> int:
    """Why a run failed: step, reason, class, the end of its log, and what to type next."""
    import dataclasses

    from pipelines.cli import runs_folder
    from pipelines.operations.triage import MEANS
    from pipelines.operations.triage import triage as look

    found = look(what, runs_folder(), environment)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=1))
        return 0
    click.echo(f"step    {found.step}")
    click.echo(f"reason  {found.reason}")
    click.echo(f"class   {found.failure}: {MEANS[found.failure]}")
    if found.log:
        click.echo("log")
        for line in found.log:
            click.echo(f"  {line}")
    click.echo("next")
    for command in found.next_commands:
        click.echo(f"  {command}")
    return 0


@click.command()
@env_option()
@click.option("--idle-days", type=click.IntRange(1, 60), default=14, show_default=True, help="Without one invocation.")
@click.option("--checkpoint-days", type=click.IntRange(2), default=7, show_default=True, help="Untouched for so long.")
@click.option("--yes", is_flag=True, help="Remove what is found; without it nothing is.")
@json_option
def janitor(environment: str, idle_days: int, checkpoint_days: int, yes: bool, as_json: bool) -> int:
    """Find idle endpoints and old checkpoints; a live endpoint is never removed."""
    from pipelines.configuration import load_settings
    from pipelines.engines.sagemaker import real_account
    from pipelines.operations.janitor import janitor as look
    from pipelines.operations.preflight import check_identity

    account = real_account(load_settings(environment))
    check_identity(account, environment)
    found = look(account, environment, idle_days, checkpoint_days)
    findings = found.findings()
    if as_json:
        rows = [{"kind": f.kind, "name": f.name, "why": f.why, "removable": f.removable} for f in findings]
        click.echo(json.dumps({"removed": yes, "findings": rows}, indent=1))
    for finding in findings:
        if not as_json:
            verb = ("remove" if yes else "would remove") if finding.removable else "keep"
            click.echo(f"{verb:<13} {finding.kind:<11} {finding.name}  ({finding.why})")
        if yes and finding.removable:
            found.remove(finding)
    if not as_json and not yes and any(finding.removable for finding in findings):
        click.echo("nothing was removed: pass --yes to remove it")
    return 0


def confirmed(question: str, yes: bool) -> None:
    """Raise UsageError where nobody can be asked, and click.Abort where the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to confirm: pass --yes, or --plan-only to see the plan")
    click.confirm(question, abort=True, err=True)


OPERATIONS = (plan, deploy, retry, package, promote, rollback, triage, janitor)
