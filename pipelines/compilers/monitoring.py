"""What Terraform's module `monitoring` reads: alarms.json and dashboards/NAME.json, from the metric catalogue.

srl-rlvr compile --target monitoring --env prod      # build/monitoring/
"""

import json

from components.shared.contracts.records import Tier
from components.shared.selection.prices import load_prices
from components.shared.trainers.trainer_factory import MODEL_TYPES
from pipelines.compilers.alarms import alarms
from pipelines.compilers.dashboards import dashboards
from pipelines.configuration import load_tier
from pipelines.job_settings import instances


def monitoring_files() -> dict[str, str]:
    """Every file by its path below the folder that Terraform's `catalogue_dir` names.

    Raises UsageError for a tier whose machine has no price.
    """
    jobs = {tier: load_tier(tier).jobs.training for tier in Tier}
    prices = load_prices()
    usd_per_hour = {tier: prices.of(job.instance_type).usd_per_hour * job.instance_count for tier, job in jobs.items()}
    gpus = {job.instance_type: instances()[job.instance_type].gpus for job in jobs.values()}
    pages = dashboards(tuple(MODEL_TYPES), usd_per_hour, gpus)
    files = {f"dashboards/{name}.json": pages[name] for name in pages}
    return {
        name: json.dumps(body, indent=1) + "\n"
        for name, body in {"alarms.json": alarms(usd_per_hour, tuple(MODEL_TYPES)), **files}.items()
    }
