"""The policies that the serving benchmarks measure: what serves on this machine, after a night where nothing does yet.

Champions are those of the folder of runs (SRL_RLVR_RUNS, else runs/); the base policy serves a tier that has none.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Tier
from components.shared.contracts.tier_places import tier_and_place
from components.shared.performance.model_registry import Registry
from components.shared.storage.paths import configs_root
from pipelines.cli import runs_folder
from pipelines.configuration import load_settings
from pipelines.launch import registry_of, tracking_uri

FAMILY = configs_root() / "models" / "local"


def serving_tiers(model_type: str, given: Sequence[str] = ()) -> dict[Tier, Path]:
    """The policy of each tier: those `given` as TIER=DIR, or of all three what serves.

    Raises UsageError for another tier, and where the night registered nothing.
    """
    if given:
        return {tier: Path(folder) for tier, folder in (tier_and_place("--policy", item) for item in given)}
    environment = load_settings("local").environment
    registry = registry_of(environment, tracking_uri(environment, runs_folder()))
    found = champions(registry, model_type)
    if not found:
        night = ["run", "nightly", "--set", f"model_type={model_type}"]
        print(f"no {model_type} serves yet: srl-rlvr {' '.join(night)}", file=sys.stderr)
        subprocess.run([sys.executable, "-c", "from pipelines.cli import main; main()", *night], check=False)
        found = champions(registry, model_type)
    if not found:
        raise UsageError(f"no {model_type} serves in {runs_folder()}: pass --policy TIER=DIR")
    return {tier: found.get(tier, FAMILY / tier) for tier in Tier}


def champions(registry: Registry, model_type: str) -> dict[Tier, Path]:
    serving = {tier: registry.champion(model_type, tier) for tier in Tier}
    return {tier: version.path for tier, version in serving.items() if version is not None}
