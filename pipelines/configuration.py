"""What a run is configured with, from the weakest word to the strongest:

    the specs' defaults < configs/tiers/TIER.yaml < configs/environments/ENV.yaml < --set

Each layer may say something about one model type only, which then beats the layer's general word. An environment beats
the tier, so that a laptop or a test can shrink what a tier asks for. `parameters` are the pipeline's own, which whoever
starts an execution may set; `stages` are compiled in, by stage (`registration`) or by one of its tasks
(`register_gold`), the task's word being the stronger.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, JsonValue

from components.catalogue import STAGES, spec_of
from components.shared.contracts.configuration import parse_config
from components.shared.contracts.errors import UsageError, unknown
from components.shared.contracts.records import Tier
from components.shared.contracts.stage import StageConfig, StageSpec
from components.shared.storage.paths import configs_root
from components.shared.storage.yaml_files import read_mapping
from components.shared.trainers.trainer_factory import check_model_type
from pipelines.job_settings import BaseModelUse, Kubernetes, Nights, SageMaker, TierJobs

Values = Mapping[str, JsonValue]


class Overrides(BaseModel):
    """What one layer says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: dict[str, JsonValue] = {}
    """Pipeline parameters by name."""
    stages: dict[str, dict[str, JsonValue]] = {}
    """Configuration keys by stage or task; a nested key is merged, not replaced."""


class Layer(Overrides):
    """One file's overrides."""

    model_types: dict[str, Overrides] = {}
    """What holds for one model type only."""


class TierLayer(Layer):
    """configs/tiers/TIER.yaml: what a tier trains with, and on which machines."""

    jobs: TierJobs
    base_model: BaseModelUse | None = None
    """What is trained, for the plan; the policy itself lies where the environment's `policies` say."""


class Environment(Layer):
    """configs/environments/ENV.yaml: where things run, and what is different there."""

    image_registry: str
    """Prefix of every image's name."""
    image_tag: str
    tracking_uri: str | None = None
    """MLflow's tracking store, where stages also register; none for SQLite in the folder of runs."""
    registry_uri: str | None = None
    """The model registry that commands ask, where it is not the tracking store's: sagemaker://GROUP_PREFIX, whose packages
    the nightly state machine makes of what the tracking store registered."""
    measured: str | None = None
    """Where serving measurements are kept, a folder or an s3:// prefix; none for serving/measured below the account's root,
    or in the folder of runs."""
    policies: dict[Tier, str] = {}
    """Base policy of each tier: an URI, or a path relative to configs/."""
    policies_by: str | None = None
    """The command that makes them, where they do not come with the project."""
    sagemaker: SageMaker | None = None
    """The AWS account; none where nothing runs on SageMaker."""
    nights: Nights | None = None
    """What trains there every night; none where no nightly state machine is."""
    kubernetes: Kubernetes | None = None
    """The cluster that KFP's YAML is for; none where no Kubeflow is."""

    @property
    def remote(self) -> bool:
        """Whether stages run elsewhere than on this machine."""
        return self.sagemaker is not None or self.kubernetes is not None

    def image(self, name: str) -> str:
        """The full name of an image, by its folder of containers/."""
        return f"{self.image_registry}/{name}:{self.image_tag}"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The layers of one run or compilation, resolved on demand."""

    name: str
    """The environment's name."""
    tier: Tier
    """The tier of `post_training` and `distillation`; `nightly` goes through all three."""
    environment: Environment
    layers: tuple[Overrides, ...]
    """Weakest first, each model type's word after its layer's."""

    @cached_property
    def parameters(self) -> dict[str, JsonValue]:
        """Pipeline parameters that some layer sets."""
        return {name: value for layer in self.layers for name, value in layer.parameters.items()}

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Every parameter that the specs expose, typed, and `night`. Raises UsageError for a value out of range."""
        exposed = {field: spec.config for spec in map(spec_of, reversed(STAGES)) for field in spec.parameters}
        values = {
            field: getattr(parse_config(config, _given(self.parameters, field), "parameter"), field)
            for field, config in exposed.items()
        }
        return values | {"night": str(self.parameters.get("night", "adhoc"))}

    def uri(self, parameter: str, tier: Tier) -> str:
        """Where a base policy lies: the parameter if it is set, else the environment's policy of that tier."""
        if parameter in self.parameters:
            return str(self.parameters[parameter])
        if tier not in self.environment.policies:
            raise UsageError(
                f"environment {self.name!r} names no base policy for {tier}: set {parameter} or policies.{tier}"
            )
        return self.environment.policies[tier]

    def config(self, task: str, spec: StageSpec, fixed: Values, parameters: Values) -> StageConfig:
        """A task's whole configuration, checked.

        `fixed` are the keys that the DAG itself decides, `parameters` those that the pipeline's parameters fill. Raises
        UsageError where a layer sets one of either, or a key or value that the stage does not take.
        """
        overrides: dict[str, Any] = {}
        for layer in self.layers:
            for name in (spec.name, task) if task != spec.name else (task,):
                _merge(overrides, layer.stages.get(name, {}))
        for key in overrides:
            if key in fixed:
                raise UsageError(f"{task}.{key} is decided by the DAG ({fixed[key]}): leave it out")
            if key in parameters:
                raise UsageError(f"{task}.{key} is a parameter of the pipeline: write --set {key}={overrides[key]}")
        return parse_config(spec.config, {**overrides, **fixed, **parameters}, task)


def load_settings(environment: str, tier: Tier = Tier.BRONZE, assignments: Sequence[str] = ()) -> Settings:
    """The settings of an environment and a tier, with `--set` assignments on top.

    Raises UsageError for an unknown environment, a malformed file or assignment, or a name that nothing goes by.
    """
    env_path = _config_file("environment", environment)
    tier_path = configs_root() / "tiers" / f"{tier}.yaml"
    env = parse_config(Environment, read_mapping(env_path), str(env_path))
    tier_layer = load_tier(tier)
    for path, layer in ((env_path, env), (tier_path, tier_layer)):
        for part in (layer, *layer.model_types.values()):
            check_names(part, f" in {path}", parameters=known_parameters(), stages=known_stages())
    assigned = parse_assignments(assignments)
    model_type = _model_type((tier_layer, env, assigned))
    check_model_type(model_type)
    typed = [part for layer in (tier_layer, env) for part in (layer, layer.model_types.get(model_type, Overrides()))]
    return Settings(name=environment, tier=tier, environment=env, layers=(*typed, assigned))


def load_tier(tier: Tier) -> TierLayer:
    """What a tier's file says. Raises UsageError where it is malformed."""
    path = configs_root() / "tiers" / f"{tier}.yaml"
    return parse_config(TierLayer, read_mapping(path), str(path))


def parse_assignments(assignments: Sequence[str]) -> Overrides:
    """`stage.key=value` and `parameter=value` items, each value as YAML reads it."""
    parameters: dict[str, JsonValue] = {}
    stages: dict[str, Any] = {}
    for item in assignments:
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {item!r} is not KEY=VALUE: write for example --set srl.steps=100")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {item!r}: the value is not YAML: put it in quotes") from error
        stage, dot, key = name.partition(".")
        if not dot:
            parameters[name] = value
            continue
        for part in reversed(key.split(".")):
            value = {part: value}
        _merge(stages, {stage: value})
    return Overrides(parameters=parameters, stages=stages)


def check_names(layer: Overrides, where: str, *, parameters: Iterable[str], stages: Iterable[str]) -> None:
    """Refuse a parameter, stage or task that is not one, naming the nearest."""
    for name in layer.parameters.keys() - set(parameters):
        raise unknown(f"parameter{where}", name, parameters)
    for name in layer.stages.keys() - set(stages):
        raise unknown(f"stage{where}", name, stages)


def known_stages() -> list[str]:
    """What a file may call a stage or a task."""
    return [*STAGES, *(f"{verb}_{tier}" for verb in ("register", "distill") for tier in Tier)]


def known_parameters() -> set[str]:
    """What a file may call a parameter; URIs of policies belong under `policies`."""
    return {"night", *(field for stage in STAGES for field in spec_of(stage).parameters)}


def names_in(folder: str) -> list[str]:
    """What configs/FOLDER/ offers, by file name."""
    return sorted(path.stem for path in (configs_root() / folder).glob("*.yaml"))


def _config_file(what: str, name: str) -> Any:
    known = names_in(f"{what}s")
    if name not in known:
        raise unknown(what, name, known)
    return configs_root() / f"{what}s" / f"{name}.yaml"


def _model_type(layers: Iterable[Overrides]) -> str:
    found = spec_of("trajectory_generation").config.model_fields["model_type"].default
    for layer in layers:
        found = layer.parameters.get("model_type", found)
    return str(found)


def _given(values: Values, field: str) -> dict[str, JsonValue]:
    return {field: values[field]} if field in values else {}


def _merge(into: dict[str, Any], values: Values) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)
