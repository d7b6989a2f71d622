"""Commands of `srl-rlvr` beside runs: services, simulations, rules, imports. Nothing heavy is imported before one runs."""

from pathlib import Path

import click

from components.shared.contracts.errors import UsageError, unknown
from pipelines.ask_commands import ask

PATH = click.Path(path_type=Path)


@click.group()
def serve() -> None:
    """Serve a part of the system, on loopback and with a token unless told otherwise."""


@serve.command()
@click.option("--config", type=PATH, help="Router configuration. [default: configs/serving/router.yaml]")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True)
def router(config: Path | None, host: str, port: int) -> None:
    """The tiers behind one OpenAI-compatible address."""
    from components.shared.serving.serve import serve_router
    from components.shared.storage.paths import configs_root

    serve_router(config or configs_root() / "serving" / "router.yaml", host, port)


@serve.command()
@click.argument("source", default="world:wrackmere")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8081, show_default=True)
@click.option("--cache", type=PATH, help="Folder that keeps the index between starts.")
@click.option("--embeddings", is_flag=True, help="Fuse BM25 with embeddings (extra `embeddings`).")
@click.option("--fronted", is_flag=True, help="The token comes in a header that a SigV4 gateway in front adds.")
@click.option("--anonymous", is_flag=True, help="No token; on loopback only.")
def context(
    source: str, host: str, port: int, cache: Path | None, embeddings: bool, fronted: bool, anonymous: bool
) -> None:
    """The context retriever over SOURCE: a folder of documents, world:NAME, or another service's address."""
    from components.shared.collaboration.context_service import serve_context

    serve_context(source, host, port, cache=cache, embeddings=embeddings, fronted=fronted, anonymous=anonymous)


@click.group()
def simulate() -> None:
    """Try a decision rule on simulated traffic."""


@simulate.command()
@click.option("--config", type=PATH, help="Router configuration. [default: configs/serving/router.yaml]")
@click.option("--rollouts", default=1000, show_default=True, help="Simulated rollouts of each effect.")
@click.option("--seed", default=0, show_default=True)
def canary(config: Path | None, rollouts: int, seed: int) -> None:
    """How often the canary stops a good challenger, and how soon a bad one."""
    from components.shared.serving.canary_simulation import simulate_canary, table
    from components.shared.serving.router_config import load_router_config
    from components.shared.storage.paths import configs_root

    settings = load_router_config(config or configs_root() / "serving" / "router.yaml")
    click.echo(table(simulate_canary(settings.canary, rollouts=rollouts, seed=seed)))


@click.group()
def rules() -> None:
    """The rules of a world."""


@rules.command("test")
@click.option("--world", default="wrackmere", show_default=True)
def test_rules(world: str) -> int:
    """Run the examples written beside each rule."""
    from components.shared.collaboration.rules_versions import check_rules
    from components.shared.collaboration.world import load_world

    checked = check_rules(load_world(world))
    for fault in checked.faults:
        click.echo(fault)
    click.echo(f"{checked.rules} rules, {checked.examples} examples, {len(checked.faults)} wrong")
    return 1 if checked.faults else 0


@rules.command()
@click.argument("nights")
@click.option("--world", default="wrackmere", show_default=True)
def retrain(nights: str, world: str) -> None:
    """Ask the nightly machine at NIGHTS (s3://BUCKET/PREFIX) to train anew what was trained by rules that have changed."""
    from components.shared.collaboration.rules_versions import request_retraining
    from components.shared.collaboration.world import load_world

    due = request_retraining(nights, load_world(world))
    click.echo(f"a Bronze is asked for: {', '.join(due)}" if due else "no rules have changed since they were noted")


@click.command("import")
@click.argument("file", type=PATH)
@click.option("--format", "form", required=True, help="trajectories, messages or gsm8k.")
@click.option("--model-type", required=True)
@click.option("--world", default="wrackmere", show_default=True)
@click.option("--out", type=PATH, required=True, help="Folder of the trajectories artifact to write.")
def import_command(file: Path, form: str, model_type: str, world: str, out: Path) -> None:
    """Bring your own demonstrations: JSONL or Parquet, gzip or zstd, as a trajectories artifact."""
    from components.shared.collaboration.importer import ImportFormat, import_file

    if form not in [f.value for f in ImportFormat]:
        raise unknown("format", form, [f.value for f in ImportFormat])
    if out.exists():
        raise UsageError(f"{out} is there already: choose another folder")
    done = import_file(file, ImportFormat(form), model_type, out, world)
    refused = ", ".join(f"{count} by {rule}" for rule, count in done.quarantined.items())
    click.echo(
        f"{done.accepted} of {done.read} rows imported into {out}" + (f"; quarantined: {refused}" if refused else "")
    )


@click.command("collect-traces")
@click.argument("sources", nargs=-1, metavar="[FOLDER]...")
@click.option("--model-type", required=True)
@click.option("--night", required=True, metavar="YYYY-MM-DD", help="Whose partition is written.")
@click.option("--out", required=True, help="Folder or s3:// prefix; the artifact is OUT/MODELTYPE/night=NIGHT.")
@click.option("--state", help="The nightly machine's state, folder or s3:// prefix: traces.json is written there.")
@click.option("--tier", default="bronze", show_default=True, help="Whose answers.")
@click.option("--policy", type=PATH, help="The tier's policy, to answer training scenarios itself.")
@click.option("--min-scenarios", default=100, show_default=True, help="Fewer are not worth distilling.")
@click.option("--world", default="wrackmere", show_default=True)
@click.option("--seed", default=0, show_default=True)
def collect_traces(
    sources: tuple[str, ...],
    model_type: str,
    night: str,
    out: str,
    state: str | None,
    tier: str,
    policy: Path | None,
    min_scenarios: int,
    world: str,
    seed: int,
) -> None:
    """What a tier answered, from FOLDERs of the router's traces, as data to distil: the best answer to each scenario."""
    from components.distillation.trace_collector import Collection, collect
    from components.shared.contracts.records import Tier

    if tier not in list(Tier):
        raise unknown("tier", tier, list(Tier))
    wanted = Collection(
        model_type=model_type,
        world=world,
        tier=Tier(tier),
        night=night,
        min_scenarios=min_scenarios,
        seed=seed,
        policy=policy,
    )
    done = collect(sources, out, state, wanted)
    refused = ", ".join(f"{count} by {rule}" for rule, count in done.quarantined.items())
    click.echo(
        f"{done.kept} of {done.read} traces kept in {done.uri}" + (f"; quarantined: {refused}" if refused else "")
    )


COMMANDS = (serve, simulate, rules, ask, import_command, collect_traces)
