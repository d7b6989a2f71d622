"""What the jobs of a compiled definition cost at most: the same sum that Terraform makes of what is deployed
(modules/sagemaker-training/outputs.tf), so that the plan and the night's budget speak of one number.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from components.shared.contracts.stage import Job
from components.shared.selection.prices import Prices
from pipelines.compilers.sagemaker_checks import MAX_ENVIRONMENT, all_steps

HOUR = 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRequest:
    """The machines that one step of a definition asks for."""

    step: str
    kind: Job
    tier: str
    instance: str
    count: int
    spot: bool
    seconds_at_most: int
    volume_gib: int

    def usd(self, prices: Prices, hours: float) -> float:
        """On demand. Raises UsageError for a machine without a price."""
        return prices.of(self.instance).usd_per_hour * self.count * hours


def job_requests(definition: Mapping[str, Any]) -> Iterator[JobRequest]:
    """Every job of a definition, those behind its gates included, in the order in which data flows."""
    for step in all_steps(definition["Steps"]):
        if step["Type"] not in MAX_ENVIRONMENT:
            continue
        request = step["Arguments"]
        machines = request.get("ResourceConfig") or request["ProcessingResources"]["ClusterConfig"]
        yield JobRequest(
            step=step["Name"],
            kind=Job(step["Type"].lower()),
            tier=next(tag["Value"] for tag in request["Tags"] if tag["Key"] == "tier"),
            instance=machines["InstanceType"],
            count=machines["InstanceCount"],
            spot=bool(request.get("EnableManagedSpotTraining")),
            seconds_at_most=request["StoppingCondition"]["MaxRuntimeInSeconds"],
            volume_gib=machines["VolumeSizeInGB"],
        )


def at_most_usd(definition: Mapping[str, Any], prices: Prices) -> float:
    """What one execution costs at most, on demand: every job at its time limit, each run once."""
    return sum(job.usd(prices, job.seconds_at_most / HOUR) for job in job_requests(definition))
