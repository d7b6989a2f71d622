"""`srl-rlvr drift`: the router's traces against the evidence of the version that serves."""

import json
from contextlib import ExitStack
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
    from components.shared.contracts.records import Tier, Trace
    from components.shared.contracts.weakness import ANSWERS, Evaluated
    from components.shared.monitoring.drift import serving_drift
    from components.shared.serving.traces import FILES
    from components.shared.storage.jsonl import read_jsonl
    from components.shared.storage.places import fetched
    from components.shared.storage.quarantine import lines, sift
    from components.shared.trainers.trainer_factory import create_trainer
    from pipelines.configuration import load_settings

    if tier not in list(Tier):
        raise unknown("tier", tier, list(Tier))
    account = load_settings(environment).environment.sagemaker
    if account is None and (publish or evidence is None):
        missing = "--publish has nowhere to send it" if publish else "it names no champion, so pass --evidence"
        raise UsageError(f"environment {environment!r} has no AWS account: {missing}")
    place = evidence or champion_evidence(account, environment, model_type, tier)
    with fetched(place) as folder:
        baseline = list(read_jsonl(folder / ANSWERS, Evaluated))
    trainer = create_trainer(model_type, world)
    with ExitStack() as folders:
        files = [file for source in sources for file in sorted(folders.enter_context(fetched(source)).rglob(FILES))]
        # A router that was killed leaves its last line cut short; the collector puts such lines into quarantine.
        records = (sift(line, Trace, "drift") for file in files for line in lines(file))
        traces = (record for record in records if isinstance(record, Trace))
        found = serving_drift(traces, baseline, trainer, Tier(tier))
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


def champion_evidence(account: Any, environment: str, model_type: str, tier: str) -> str:
    """Where the report lies that the gate of the newest approved version wrote. Raises UsageError where there is none."""
    from pipelines.operations.promotion import describe_package, newest_packages, package_group

    group = package_group(environment, model_type, tier)
    newest = next(iter(newest_packages(account.region, group, "Approved", 1)), None)
    if newest is None:
        raise UsageError(f"{group}: no version serves: there is nothing to compare with")
    package = describe_package(account.region, newest)
    uri = package.get("ModelMetrics", {}).get("ModelQuality", {}).get("Statistics", {}).get("S3Uri")
    if uri is None:
        raise UsageError(f"{newest} names no evidence: pass --evidence")
    return str(uri).rpartition("/")[0]


def send(metrics: dict[str, float], account: Any, environment: str, dimensions: dict[str, str]) -> None:
    """Publish metrics of the catalogue under each of their sets of dimensions."""
    from components.shared.monitoring.catalogue import OWN, namespace_of
    from pipelines.engines.sagemaker import aws_client, aws_errors

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
