"""Which policy serves a tier when an execution starts.

A second, identical execution must be measured against what the first one was measured against, although the first has
changed the champion since: where the champion was registered by this very execution (its key says so), the policy that
it was compared with then is taken instead.
"""

from collections.abc import Mapping
from pathlib import Path

from components.data_validation.spec import FIRST_NIGHT
from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.contracts.records import Tier, content_id
from components.shared.contracts.stage import ArtifactKind
from components.shared.performance.model_registry import CHAMPION, Registry, Version, holder
from components.shared.storage.artifacts import file_digest, read_manifest, verify
from components.shared.storage.paths import PROJECT, configs_root
from pipelines.compilers.kubeflow import CompiledDag
from pipelines.engines.stage_store import StageStore, digest_of

BASES = {
    "champion_uri": ("base_uri", "student_uri"),
    "silver_champion_uri": ("silver_base_uri",),
    "gold_champion_uri": ("gold_base_uri",),
}
"""The parameters whose policy stands in where nothing serves yet."""
TEACHERS = {Tier.SILVER: Tier.BRONZE, Tier.GOLD: Tier.SILVER}
"""Whose policy teaches a tier's student."""
EXECUTION_KEY, COMPARED_WITH, DATASET_DIGEST = "execution_key", "compared_with", "dataset_digest"
"""Tags of a version: the execution that registered it, and the digests of the policy that it was measured against and of the
data that it was trained on."""


def resolve(dag: CompiledDag, registry: Registry) -> tuple[dict[str, Path], str]:
    """Where each artifact that the DAG imports lies on this machine, by parameter, and the execution's key.

    Raises UsageError for a parameter that nothing fills, PipelineError for an artifact that is not there or not whole.
    """
    made_by = dag.settings.environment.policies_by
    found = {name: checked(name, path, made_by) for name, path in given_paths(dag).items()}
    serving = {name: serving_tier(dag, name) for name in imported(dag) if name not in found}
    key = execution_key(dag, found)
    model_type = str(dag.settings.defaults["model_type"])
    for name, tier in serving.items():
        base = next((found[other] for other in BASES.get(name, ()) if other in found), None)
        base = base or checked(name, configs_root() / dag.settings.uri(name, tier), made_by)
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


def champion(registry: Registry, model_type: str, tier: Tier, base: Path, key: str) -> Path:
    """The policy that the execution `key` is measured against; `base` where nothing serves yet."""
    current = registry.champion(model_type, tier)
    if current is None:
        return base
    if current.tags.get(EXECUTION_KEY) != key:
        return current.path
    if read_manifest(base).digest == current.tags.get(COMPARED_WITH):
        return base
    earlier = _compared_with(registry, model_type, tier, current)
    return registry.fetch(earlier) if earlier else current.path


def _compared_with(registry: Registry, model_type: str, tier: Tier, version: Version) -> Version | None:
    """The version that another one was measured against when it was registered; none where that was a base."""
    digest = version.tags.get(COMPARED_WITH)
    return next((v for v in registry.versions(model_type, tier) if v.policy_digest == digest), None)


def accepted_profile(dag: CompiledDag, registry: Registry, store: StageStore, key: str) -> str:
    """Where the profile lies of the data that the policy was trained on which the execution `key` is measured against.

    `none` where no night was accepted before, and for traces, which no earlier night need be like. Raises PipelineError
    where the store has lost that data.
    """
    settings = dag.settings
    if "accepted" in settings.parameters or "trajectory_generation" not in dag.tasks:
        return str(settings.defaults["accepted"])
    model_type = str(settings.defaults["model_type"])
    version = holder(registry.versions(model_type, settings.tier), CHAMPION)
    if version is not None and version.tags.get(EXECUTION_KEY) == key:
        version = _compared_with(registry, model_type, settings.tier, version)
    if version is None:
        return FIRST_NIGHT
    digest = version.tags.get(DATASET_DIGEST)
    for folder in sorted((store.root / "data_validation").glob("*/dataset")):
        if (folder / "manifest.json").is_file() and read_manifest(folder).digest == digest:
            return str(folder / "profile.json")
    raise PipelineError(
        f"{version.name} version {version.number} was trained on data that {store.root} does not hold, so nothing tells "
        f"whether this night's has drifted: add --set accepted=PROFILE.JSON, or --set accepted={FIRST_NIGHT}"
    )


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


def checked(parameter: str, path: Path, made_by: str | None = None) -> Path:
    """The path, once it is known to hold a whole artifact of the right kind; `made_by` is the command that makes it."""
    if made_by and not path.exists():
        raise UsageError(f"{parameter}: no policy at {path}: make it with {made_by}")
    kind = ArtifactKind.TRAJECTORIES if parameter == "traces_uri" else ArtifactKind.POLICY
    try:
        verify(path, kind)
    except PipelineError as error:
        raise type(error)(f"{parameter}: {error}") from error
    return path
