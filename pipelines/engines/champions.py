"""Which policy serves a tier when an execution starts.

A second, identical execution must be measured against what the first one was measured against, although the first has
changed the champion since: where the champion was registered by this very execution (its key says so), the policy that
it was compared with then is taken instead.
"""

from collections.abc import Mapping
from pathlib import Path

from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.contracts.records import Tier, content_id
from components.shared.contracts.stage import ArtifactKind
from components.shared.performance.model_registry import ModelRegistry
from components.shared.storage.artifacts import file_digest, read_manifest, verify
from components.shared.storage.paths import PROJECT, configs_root
from pipelines.compilers.kubeflow import CompiledDag
from pipelines.engines.stage_store import digest_of

BASES = {
    "champion_uri": ("base_uri", "student_uri"),
    "silver_champion_uri": ("silver_base_uri",),
    "gold_champion_uri": ("gold_base_uri",),
}
"""The parameters whose policy stands in where nothing serves yet."""
TEACHERS = {Tier.SILVER: Tier.BRONZE, Tier.GOLD: Tier.SILVER}
"""Whose policy teaches a tier's student."""
EXECUTION_KEY, COMPARED_WITH = "execution_key", "compared_with"
"""Tags of a version: the execution that registered it, and the digest of the policy that it was measured against."""


def resolve(dag: CompiledDag, registry: ModelRegistry) -> tuple[dict[str, Path], str]:
    """Where each artifact that the DAG imports lies on this machine, by parameter, and the execution's key.

    Raises UsageError for a parameter that nothing fills, PipelineError for an artifact that is not there or not whole.
    """
    found = {name: checked(name, path) for name, path in given_paths(dag).items()}
    serving = {name: serving_tier(dag, name) for name in imported(dag) if name not in found}
    key = execution_key(dag, found)
    model_type = str(dag.settings.defaults["model_type"])
    for name, tier in serving.items():
        base = next((found[other] for other in BASES.get(name, ()) if other in found), None)
        base = base or checked(name, configs_root() / dag.settings.uri(name, tier))
        found[name] = champion(registry, model_type, tier, base, key)
    return found, key


def imported(dag: CompiledDag) -> list[str]:
    """The parameters that name artifacts."""
    return sorted(name for name in dag.parameters if name.endswith("_uri"))


def given_paths(dag: CompiledDag) -> dict[str, Path]:
    """The artifacts that `--set` (relative to the working folder) or the environment (relative to configs/) names."""
    settings, found = dag.settings, {}
    for name in imported(dag):
        if name in settings.parameters:
            found[name] = Path(str(settings.parameters[name])).resolve()
        elif "defaultValue" in dag.parameters[name]:
            found[name] = configs_root() / dag.parameters[name]["defaultValue"]
    return found


def serving_tier(dag: CompiledDag, parameter: str) -> Tier:
    """The tier whose serving policy fills a parameter. Raises UsageError where none does."""
    tier = dag.settings.tier
    tiers = {"champion_uri": tier, "silver_champion_uri": Tier.SILVER, "gold_champion_uri": Tier.GOLD}
    if tier in TEACHERS:
        tiers["teacher_uri"] = TEACHERS[tier]
    if parameter not in tiers:
        raise UsageError(f"{dag.name} needs {parameter}: add --set {parameter}=DIR")
    return tiers[parameter]


def champion(registry: ModelRegistry, model_type: str, tier: Tier, base: Path, key: str) -> Path:
    """The policy that the execution `key` is measured against; `base` where nothing serves yet."""
    current = registry.champion(model_type, tier)
    if current is None:
        return base
    if current.tags.get(EXECUTION_KEY) != key:
        return current.path
    earlier = current.tags.get(COMPARED_WITH)
    if read_manifest(base).digest == earlier:
        return base
    versions = [version for version in registry.versions(model_type, tier) if version.policy_digest == earlier]
    return registry.fetch(versions[0]) if versions else current.path


def execution_key(dag: CompiledDag, given: Mapping[str, Path]) -> str:
    """Identity of what is executed: the DAG as compiled, what it is given, the code and the data that the code reads.

    Which champion it is measured against is no part of it.
    """
    code = {path.relative_to(PROJECT).as_posix(): file_digest(path) for path in (PROJECT / "components").rglob("*.py")}
    data = [digest_of(configs_root() / "model_types")]
    if "world" in dag.parameters:
        data.append(digest_of(configs_root() / "worlds" / str(dag.settings.defaults["world"])))
    inputs = {name: read_manifest(path).digest for name, path in sorted(given.items())}
    return content_id(dag.ir, inputs, code, data)


def checked(parameter: str, path: Path) -> Path:
    """The path, once it is known to hold a whole artifact of the right kind."""
    kind = ArtifactKind.TRAJECTORIES if parameter == "traces_uri" else ArtifactKind.POLICY
    try:
        verify(path, kind)
    except PipelineError as error:
        raise type(error)(f"{parameter}: {error}") from error
    return path
