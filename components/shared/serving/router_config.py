"""configs/serving/router.yaml as types, and what it describes as objects."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from components.shared.contracts.configuration import parse_config
from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Tier
from components.shared.serving.adapters import ServedBase
from components.shared.serving.canary import CanaryConfig
from components.shared.serving.choice import ChoiceConfig
from components.shared.serving.dispatch import Backend
from components.shared.serving.health import Health
from components.shared.serving.hot_swap import Aliases
from components.shared.serving.srl_model_adapter import ModelServer
from components.shared.storage.paths import configs_root
from components.shared.storage.yaml_files import read_mapping


class Shape(BaseModel):
    """Base of the configuration's parts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServerConfig(Shape):
    """What every kind of server needs to be told."""

    base: Path
    """Sealed policy folder of the base that it serves; relative to the configurations' folder."""
    model: str = "base"
    """The base's id on the server."""
    max_rank: int = Field(default=64, ge=1)
    """Largest LoRA rank that it takes."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Time for one whole answer."""


class InProcessConfig(ServerConfig):
    """transformers and PEFT in the router's own process."""

    kind: Literal["in_process"]


class VLLMConfig(ServerConfig):
    """vLLM's server."""

    kind: Literal["vllm"]
    url: str
    chat: bool = True
    """Whether turns go through the server's chat template."""
    key_variable: str | None = None
    """Environment variable with its API key."""
    load_timeout_s: float = Field(default=300.0, gt=0)


class TritonConfig(ServerConfig):
    """TensorRT-LLM behind Triton."""

    kind: Literal["triton"]
    url: str


class SageMakerConfig(ServerConfig):
    """Inference components of a SageMaker endpoint."""

    kind: Literal["sagemaker"]
    endpoint: str
    bucket: str
    prefix: str = "adapters"
    region: str | None = None
    load_timeout_s: float = Field(default=900.0, gt=0)


Server = Annotated[InProcessConfig | VLLMConfig | TritonConfig | SageMakerConfig, Field(discriminator="kind")]


class LimitsConfig(Shape):
    """What one request, and all of them together, may take."""

    body_bytes: int = Field(default=256 * 1024, ge=1)
    messages: int = Field(default=64, ge=1)
    max_tokens: int = Field(default=1024, ge=1)
    """The most that a request may ask for, and what it gets where it asks for nothing."""
    in_flight: int = Field(default=256, ge=1)
    """Requests answered at one time; one more is turned away with 429."""
    requests_per_minute: int = Field(default=20_000, ge=1)
    """By key, spread evenly, with a burst of a sixth of it."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Time that each tier has: for the whole answer, or for a stream's first piece."""


class HealthConfig(Shape):
    """When a tier is left alone."""

    max_failures: int = Field(default=5, ge=1)
    cool_down_s: float = Field(default=60.0, gt=0)


class SwapConfig(Shape):
    """How an adapter is replaced."""

    min_agreement: float = Field(default=1.0, gt=0, le=1)
    """Share of canary prompts that the served adapter must answer as recorded: below 1 for a server in lower precision."""
    drain_timeout_s: float = Field(default=60.0, gt=0)
    """Time that requests on the old adapter have to end; one that takes longer keeps it loaded until the next swap."""


class RouterConfig(Shape):
    """Everything about one router."""

    tiers: dict[Tier, Server] = Field(min_length=1)
    selection: Path
    """The accepted selection table; relative to the configurations' folder."""
    embedding: Path | None = None
    """Folder of a sentence encoder, where the table is calibrated on its embeddings."""
    layers: Path | None = Path("serving/layers.yaml")
    """The layers' file, or none for a router without layers."""
    state: Path = Path("serving-state")
    """Folder for aliases, adapters, traces and rollouts; relative to the working directory."""
    traces_to: str | None = Field(default=None, pattern=r"^s3://[^/]+/.+")
    """Prefix that complete files of traces are sent to, s3://BUCKET/traces/served; none leaves them in `state`."""
    keys: dict[str, str] = Field(default_factory=lambda: {"default": "SRL_RLVR_ROUTER_KEY"})
    """Bearer keys: who, and the environment variable that holds the key."""
    admin_key: str | None = "SRL_RLVR_ROUTER_ADMIN_KEY"
    """Environment variable of the key for swaps and rollouts; they are off where it is unset."""
    anonymous: bool = False
    """Whether requests without a key are taken; on loopback alone."""
    world: str | None = None
    """World whose trainers score answers to known scenarios; none leaves traces unscored."""
    metrics_namespace: str | None = None
    """CloudWatch namespace (`terraform output metrics_namespace`) of what decision lines carry as embedded metrics, where
    standard output goes to CloudWatch Logs; none leaves them out."""
    choice: ChoiceConfig = ChoiceConfig()
    limits: LimitsConfig = LimitsConfig()
    health: HealthConfig = HealthConfig()
    swap: SwapConfig = SwapConfig()
    canary: CanaryConfig = CanaryConfig()
    refresh_s: float = Field(default=10.0, gt=0)
    """How often the selection table is looked at and rollouts are decided."""

    def path(self, given: Path) -> Path:
        """A configured path as a file's or folder's."""
        return configs_root() / given.expanduser()


def load_router_config(file: Path) -> RouterConfig:
    """The router's configuration in a YAML file. Raises UsageError naming key and value."""
    return parse_config(RouterConfig, read_mapping(file), file.name)


def read_keys(variables: Mapping[str, str]) -> dict[str, str]:
    """Who may ask, by key. Raises UsageError for a variable without a key, or with a short one."""
    keys = {}
    for who, variable in variables.items():
        key = os.environ.get(variable, "")
        if len(key) < 16:
            raise UsageError(
                f"environment variable {variable} holds no key of 16 characters or more for {who!r}: export it"
            )
        keys[key] = who
    return keys


def build_backends(config: RouterConfig) -> dict[Tier, Backend]:
    """A server with its aliases and health for each tier."""
    return {
        tier: Backend(
            server=build_server(server, config),
            aliases=Aliases(config.state / f"aliases-{tier}.json"),
            health=Health(max_failures=config.health.max_failures, cool_down_s=config.health.cool_down_s),
        )
        for tier, server in config.tiers.items()
    }


def build_server(server: Server, config: RouterConfig) -> ModelServer:
    """The back end that the configuration names; heavy packages are imported for the kind that needs them."""
    folder = config.path(server.base)
    if isinstance(server, InProcessConfig):
        from components.shared.serving.in_process_server import InProcessServer

        return InProcessServer(folder, server.model, max_rank=server.max_rank)
    base = ServedBase.of(folder, server.model, server.max_rank)
    if isinstance(server, VLLMConfig):
        from components.shared.serving.vllm_server import VLLMServer

        key = os.environ.get(server.key_variable, "") if server.key_variable else None
        if key == "":
            raise UsageError(f"environment variable {server.key_variable} holds no key for {server.url}: export it")
        return VLLMServer(
            server.url,
            base,
            key=key,
            chat=server.chat,
            timeout_s=server.timeout_s,
            load_timeout_s=server.load_timeout_s,
        )
    if isinstance(server, TritonConfig):
        from components.shared.serving.triton_server import TritonServer

        return TritonServer(server.url, base, timeout_s=server.timeout_s)
    return _sagemaker(server, base)


def _sagemaker(server: SageMakerConfig, base: ServedBase) -> ModelServer:
    import boto3
    from botocore.config import Config

    from components.shared.serving.sagemaker_server import SageMakerServer

    # The router is the only retry loop, so an invocation is tried once.
    once = Config(retries={"total_max_attempts": 1}, read_timeout=server.timeout_s, max_pool_connections=64)
    return SageMakerServer(
        base,
        endpoint=server.endpoint,
        bucket=server.bucket,
        prefix=server.prefix,
        sagemaker=boto3.client("sagemaker", region_name=server.region),
        runtime=boto3.client("sagemaker-runtime", region_name=server.region, config=once),
        s3=boto3.client("s3", region_name=server.region),
        load_timeout_s=server.load_timeout_s,
    )
