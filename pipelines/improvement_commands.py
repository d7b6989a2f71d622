"""Commands of `srl-rlvr` that close the loop: which policy serves what, and what MLflow has missed."""

import json
from pathlib import Path
from typing import Any

import click

from components.shared.contracts.errors import UsageError

REFUSED = 3
PATH = click.Path(path_type=Path)


@click.command()
@click.option(
    "--measured",
    multiple=True,
    metavar="PLACE",
    help="Serving measurements: a file of JSON lines, a folder, or s3://... [default: those of --env]",
)
@click.option("--env", "environment", default="local", show_default=True, help="Whose registry and measurements.")
@click.option("--router", type=PATH, help="Whose table. [default: configs/serving/router.yaml]")
@click.option("--accept", metavar="VERSION", help="Put a proposal into effect: a version, or where it lies on S3.")
@click.option("--undo", is_flag=True, help="Go back to the table before the one in effect.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def select(
    measured: tuple[str, ...], environment: str, router: Path | None, accept: str | None, undo: bool, as_json: bool
) -> None:
    """Choose the policy for each model type and tier by what was measured: propose, or --accept, or --undo."""
    from components.shared.selection.refresh import put_table, read_measured, read_table, refresh
    from components.shared.selection.selection_history import SelectionHistory
    from components.shared.serving.router_config import load_router_config
    from components.shared.storage.paths import configs_root
    from pipelines.cli import runs_folder
    from pipelines.compilers.selection import measurements, tables
    from pipelines.configuration import load_settings
    from pipelines.launch import tracking_uri
    from pipelines.operations.commands import person

    if bool(measured) + bool(accept) + undo > 1:
        raise UsageError("--measured, --accept and --undo do different things: pass one of them")
    config = load_router_config(router or configs_root() / "serving" / "router.yaml")
    history = SelectionHistory.beside(config.path(config.selection))
    before = history.current()
    found = load_settings(environment).environment
    if undo or accept:
        if accept and accept.startswith("s3://"):
            accept = history.propose(read_table(accept)).stem
        table = history.accept(accept, person()) if accept else history.revert(person())
        if found.sagemaker:
            put_table(table, tables(found.sagemaker), in_effect=True)
        shown(table, "in effect again" if undo else "in effect", as_json)
    else:
        uri = found.registry_uri or tracking_uri(found, runs_folder())
        table = refresh(uri, read_measured(measured or [measurements(found, runs_folder())]), before)
        if before and table.version == before.version:
            shown(before, "in effect; nothing is surely better or clearly cheaper", as_json)
            return
        history.propose(table)
        shown(table, f"proposed: srl-rlvr select --accept {table.version}", as_json)


def shown(table: Any, standing: str, as_json: bool) -> None:
    """What a table says, and why it says otherwise than the one before."""
    from rich.table import Table

    from pipelines.cli import printer

    if as_json:
        said = {"version": table.version, "standing": standing, **table.model_dump(mode="json")}
        click.echo(json.dumps(said, indent=1))
        return
    rows = Table("model type", "tier", "trainer", "base model", "policy", "quality", "USD / million written")
    for b in table.benchmarks:
        quality = f"{b.quality:.3f}, at least {b.quality_low:.3f}"
        price = f"{b.usd_per_million_output_tokens:.3g}"
        rows.add_row(b.model_type, b.tier, b.trainer, b.base_model, b.policy[:12], quality, price)
    printer().print(rows)
    for reason in table.reasons:
        click.echo(f"- {reason}")
    click.echo(f"{table.version}: {standing}")


@click.command()
def track() -> int:
    """Hand MLflow what it missed while it was away, oldest run first."""
    from pipelines.cli import runs_folder
    from pipelines.engines.tracking import replay

    found = list(replay(runs_folder()))
    for run in found:
        click.echo(f"{run.run_id}: {run.calls} calls handed over" + (f"; {run.failure}" if run.failure else ""))
    if not found:
        click.echo("nothing is spooled")
    return 1 if any(run.failure for run in found) else 0


@click.command()
@click.argument("tier")
@click.option("--model-type", required=True)
@click.option("--dataset", type=PATH, required=True, help="Sealed data set whose held-out prompts are asked.")
@click.option("--policy", type=PATH, help="Sealed policy to serve in this process, instead of the router's server.")
@click.option("--instance", default="local", show_default=True, help="The machine, as configs/prices.yaml names it.")
@click.option("--router", type=PATH, help="[default: configs/serving/router.yaml]")
@click.option("--prompts", default=100, show_default=True, help="At most so many.")
@click.option("--max-tokens", default=128, show_default=True)
@click.option("--concurrency", default=1, show_default=True, help="Requests in flight.")
@click.option("--env", "environment", default="local", show_default=True, help="Whose measurements it is added to.")
@click.option("--out", metavar="FOLDER|s3://...", help="Where it is added instead.")
def measure(
    tier: str,
    model_type: str,
    dataset: Path,
    policy: Path | None,
    instance: str,
    router: Path | None,
    prompts: int,
    max_tokens: int,
    concurrency: int,
    environment: str,
    out: str | None,
) -> None:
    """Measure how a tier's policy serves on its machine: what `select` chooses by, beside the registry's scores."""
    import asyncio

    from components.shared.contracts.errors import PipelineError, unknown
    from components.shared.contracts.records import Tier
    from components.shared.selection import serving_measurement as work
    from components.shared.selection.prices import load_prices
    from components.shared.selection.refresh import add_measured
    from components.shared.serving.router_config import InProcessConfig, build_server, load_router_config
    from components.shared.storage.artifacts import read_manifest
    from components.shared.storage.paths import configs_root
    from pipelines.cli import runs_folder
    from pipelines.compilers.selection import measurements
    from pipelines.configuration import load_settings

    config = load_router_config(router or configs_root() / "serving" / "router.yaml")
    place = out or measurements(load_settings(environment).environment, runs_folder())
    if tier not in list(config.tiers):
        raise unknown("tier of the router", tier, config.tiers)
    load_prices().of(instance)
    server = config.tiers[Tier(tier)]
    if policy is not None:
        server = InProcessConfig(kind="in_process", base=policy.resolve(), model=server.model)
    folder = config.path(server.base)
    subject = work.Subject(
        model_type=model_type,
        tier=Tier(tier),
        policy=read_manifest(folder).digest,
        base_model=server.model,
        parameters=work.stored_parameters(folder),
        instance=instance,
    )
    asked = work.held_out_prompts(dataset, prompts)

    async def run() -> Any:
        served = build_server(server, config)
        try:
            return await work.measure(
                served, server.model, asked, subject, max_tokens=max_tokens, concurrency=concurrency
            )
        finally:
            await served.close()

    found = asyncio.run(run())
    try:
        kept = add_measured(found, place)
    except (PipelineError, OSError):
        # It took minutes: whoever reads the error can still keep it.
        click.echo(found.model_dump_json())
        raise
    click.echo(
        f"{model_type} {tier}: {found.output_tokens_per_s:.0f} tokens/s, {found.first_token_ms:.0f} ms to the first, "
        f"{found.token_ms:.1f} ms a token, {found.samples} prompts: {kept}"
    )


IMPROVEMENT = (select, measure, track)
