"""What costs money and serves nobody: idle endpoints, checkpoints of nights that are over. It says what it would remove,
and removes it only when told to.

An endpoint is removed only where every sign says that it is idle: it is the environment's by its name, in service or
broken, older than the window, not named by the router, not tagged `srl-rlvr:keep`, hosts no inference components (whose
calls are not counted by endpoint), and had no invocation in the whole window. Where one of these cannot be read, nothing is
removed.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from components.shared.storage.aws import aws_client, aws_errors
from components.shared.storage.paths import configs_root
from components.shared.storage.yaml_files import read_mapping
from pipelines.job_settings import SageMaker

KEEP = "srl-rlvr:keep"
"""Tag that an endpoint is left alone by, whatever its value."""
SETTLED = ("InService", "Failed", "OutOfService", "UpdateRollbackFailed")
"""Statuses of an endpoint that nothing is happening to."""
BATCH = 1000
"""Objects that S3 deletes at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that costs money."""

    kind: str
    """endpoint or checkpoints"""
    name: str
    """The endpoint's name, or the prefix of the checkpoints."""
    why: str
    """Why it may go, or why it stays."""
    removable: bool
    keys: tuple[str, ...] = ()
    """The objects, for checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Janitor:
    """Looks through one environment's account."""

    account: SageMaker
    name: str
    """What everything of the environment begins with: srl-rlvr-ENV."""
    idle_days: int
    checkpoint_days: int
    now: datetime

    def findings(self) -> list[Finding]:
        """Everything that was looked at, endpoints first. Raises PipelineError where AWS refuses an answer."""
        return [*self.endpoints(), *self.checkpoints()]

    def remove(self, finding: Finding) -> None:
        """Remove a finding, looked at once more: an endpoint that was called since is left alone."""
        assert finding.removable, finding.name
        if finding.kind == "endpoint":
            if not self._endpoint(finding.name).removable:
                return
            with aws_errors(finding.name):
                aws_client("sagemaker", self.account.region).delete_endpoint(EndpointName=finding.name)
            return
        s3 = aws_client("s3", self.account.region)
        for start in range(0, len(finding.keys), BATCH):
            objects = [{"Key": key} for key in finding.keys[start : start + BATCH]]
            with aws_errors(finding.name):
                s3.delete_objects(Bucket=self.account.bucket, Delete={"Objects": objects, "Quiet": True})

    def endpoints(self) -> Iterator[Finding]:
        sagemaker = aws_client("sagemaker", self.account.region)
        with aws_errors("endpoints"):
            pages = sagemaker.get_paginator("list_endpoints").paginate(NameContains=self.name)
            names = [item["EndpointName"] for page in pages for item in page["Endpoints"]]
        for name in names:
            if name.startswith(f"{self.name}-"):
                yield self._endpoint(name)

    def _endpoint(self, name: str) -> Finding:
        sagemaker = aws_client("sagemaker", self.account.region)
        with aws_errors(name):
            found = sagemaker.describe_endpoint(EndpointName=name)
            config = sagemaker.describe_endpoint_config(EndpointConfigName=found["EndpointConfigName"])
            tags = sagemaker.list_tags(ResourceArn=found["EndpointArn"])["Tags"]
        variants = config["ProductionVariants"]
        live = self._signs_of_life(name, found, variants, tags)
        why = live or f"no invocation in {self.idle_days} days"
        return Finding(kind="endpoint", name=name, why=why, removable=live is None)

    def _signs_of_life(self, name: str, found: Any, variants: list[Any], tags: list[Any]) -> str | None:
        """Why an endpoint stays; none where nothing speaks for it."""
        if found["EndpointStatus"] not in SETTLED:
            return f"it is {found['EndpointStatus']}"
        if found["CreationTime"] > self.now - timedelta(days=self.idle_days):
            return f"it is younger than {self.idle_days} days"
        if any(tag["Key"] == KEEP for tag in tags):
            return f"its tag {KEEP}"
        if name in json.dumps(read_mapping(configs_root() / "serving" / "router.yaml")):
            return "configs/serving/router.yaml names it"
        if not variants or any("ModelName" not in variant for variant in variants):
            return "it hosts inference components, whose calls are not counted by endpoint"
        calls = sum(self._invocations(name, variant["VariantName"]) for variant in variants)
        return f"{calls:,.0f} invocations in {self.idle_days} days" if calls else None

    def _invocations(self, endpoint: str, variant: str) -> float:
        with aws_errors(f"invocations of {endpoint}"):
            found = aws_client("cloudwatch", self.account.region).get_metric_statistics(
                Namespace="AWS/SageMaker",
                MetricName="Invocations",
                Dimensions=[{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant}],
                StartTime=self.now - timedelta(days=self.idle_days),
                EndTime=self.now,
                Period=86_400,
                Statistics=["Sum"],
            )
        return sum(point["Sum"] for point in found["Datapoints"])

    def checkpoints(self) -> Iterator[Finding]:
        """By tier, model type and night: PREFIX/checkpoints/TIER/MODELTYPE/NIGHT/STEP/..."""
        root, nights = f"{self.account.prefix}/checkpoints/", f"{self.account.prefix}/nights"
        flying = self._flying(f"{nights}/state/")
        by_night: dict[str, list[Any]] = {}
        for item in self._objects(root):
            parts = item["Key"].removeprefix(root).split("/")
            if len(parts) > 3:
                by_night.setdefault("/".join(parts[:3]), []).append(item)
        for place, items in sorted(by_night.items()):
            newest = max(item["LastModified"] for item in items)
            gib = sum(item["Size"] for item in items) / 2**30
            if place in flying:
                why, old = "a run in flight goes on from them", False
            else:
                age = (self.now - newest).days
                why, old = f"{gib:.2f} GiB, untouched for {age} days", age >= self.checkpoint_days
            keys = tuple(item["Key"] for item in items)
            yield Finding(kind="checkpoints", name=f"{root}{place}/", why=why, removable=old, keys=keys)

    def _flying(self, prefix: str) -> set[str]:
        """TIER/MODELTYPE/NIGHT of every run in flight."""
        s3, found = aws_client("s3", self.account.region), set()
        for item in self._objects(prefix):
            model_type, folder, *rest = item["Key"].removeprefix(prefix).split("/")
            if folder == "flights" and rest:
                with aws_errors(item["Key"]):
                    body = s3.get_object(Bucket=self.account.bucket, Key=item["Key"])["Body"].read()
                found.add(f"{rest[0].removesuffix('.json')}/{model_type}/{json.loads(body)['night']}")
        return found

    def _objects(self, prefix: str) -> Iterator[Any]:
        with aws_errors(f"s3://{self.account.bucket}/{prefix}"):
            pages = aws_client("s3", self.account.region).get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.account.bucket, Prefix=prefix):
                yield from page.get("Contents", ())


def janitor(account: SageMaker, environment: str, idle_days: int, checkpoint_days: int) -> Janitor:
    return Janitor(
        account=account,
        name=f"srl-rlvr-{environment}",
        idle_days=idle_days,
        checkpoint_days=checkpoint_days,
        now=datetime.now(UTC),
    )
