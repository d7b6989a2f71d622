"""`srl-rlvr drift`: the router's traces against the evidence of the version that serves."""

import json
from typing import Any

import click

from components.shared.contracts.errors import UsageError, unknown
from pipelines.operations.commands import REFUSED, env_option, json_option


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="FOLDER...")
@click.option("--model-type", required=True)
@click.option("--tier", default="gold", show_default=True, help="Whose answers.")
@env_option("local")
@click.option(
    "--evidence",
    help="Report folder of the version that serves, or its s3:// prefix. [default: of the champion of --env]",
)
@click.option("--world", default="wrackmere", show_default=True)
@click.option("--publish", is_flag=True, help="Send the two indices to CloudWatch.")
@json_option
def drift(
    sources: tuple[str, ...],
    model_type: str,
    tier: str,
    environment: str,
    evidence: str | None,
    world: str,
    publish: bool,
    as_json: bool,
) -> int:
    """How far what a tier is asked and how it scores, by FOLDERs of traces, are from what its version was registered with.

    Refused (3) where the population stability index is over 0.25.
    """
    from components.shared.contracts.records import Tier
    from components.shared.monitoring.served import compare
    from components.shared.trainers.trainer_factory import create_trainer
    from pipelines.cli import runs_folder
    from pipelines.configuration import load_settings
    from pipelines.launch import registry_of, tracking_uri

    if tier not in list(Tier):
        raise unknown("tier", tier, list(Tier))
    where = load_settings(environment).environment
    account = where.sagemaker
    if account is None and publish:
        raise UsageError(f"environment {environment!r} has no AWS account: --publish has nowhere to send it")
    registry = registry_of(where, tracking_uri(where, runs_folder()))
    place = evidence or champion_evidence(registry, model_type, Tier(tier))
    found = compare(sources, place, create_trainer(model_type, world), Tier(tier))
    if publish:
        send(found.metrics, account, environment, {"Tier": tier, "ModelType": model_type})
    if as_json:
        click.echo(json.dumps(found.model_dump(mode="json") | {"verdict": found.verdict, **found.metrics}, indent=1))
    else:
        click.echo(f"{found.compared} of {found.read} traces against {found.baseline} scenarios of {place}")
        for name, one in {**found.inputs, "reward": found.reward}.items():
            click.echo(f"  {name:<24} PSI {one.index:.3f}   by chance up to {one.chance:.3f}")
        click.echo(f"drift: {found.verdict}")
    return REFUSED if found.blocked else 0


def champion_evidence(registry: Any, model_type: str, tier: Any) -> str:
    """Where the report lies that the gate of the champion wrote. Raises UsageError where the registry tells of none."""
    from components.shared.performance.model_registry import CHAMPION, holder

    champion = holder(registry.versions(model_type, tier), CHAMPION)
    if champion is None:
        raise UsageError(f"{model_type}-{tier}: no version serves: pass --evidence of what to compare with")
    if champion.evidence is None:
        raise UsageError(f"{champion.name} version {champion.number} names no evidence: pass --evidence")
    return champion.evidence.rpartition("/")[0]


def send(metrics: dict[str, float], account: Any, environment: str, dimensions: dict[str, str]) -> None:
    """Publish metrics of the catalogue under each of their sets of dimensions."""
    from components.shared.monitoring.catalogue import OWN, namespace_of
    from components.shared.storage.aws import aws_client, aws_errors

    data = [
        {
            "MetricName": name,
            "Value": value,
            "Unit": OWN[name].unit,
            "Dimensions": [{"Name": key, "Value": dimensions[key]} for key in names],
        }
        for name, value in metrics.items()
        for names in OWN[name].dimensions
    ]
    namespace = namespace_of(environment)
    with aws_errors(namespace):
        aws_client("cloudwatch", account.region).put_metric_data(Namespace=namespace, MetricData=data)
