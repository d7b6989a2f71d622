"""One step of a SageMaker pipeline: the CreateTrainingJob or CreateProcessingJob request that starts a stage's container.

Values that are only known when an execution runs are `{"Get": ...}` references, or texts joined with them. Whatever is part
of a step's cache key (image, command, configuration, inputs, environment, checkpoints) never holds the execution's id.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.entrypoints.sagemaker import Mode, encode, flat
from components.shared.contracts.environment import EXECUTION_KEY
from components.shared.contracts.stage import Job, StageSpec
from components.shared.monitoring.catalogue import TRAINING
from pipelines.compilers.ir import Constant, Output, Parameter, Step
from pipelines.job_settings import Instance, JobSettings, SageMaker

Json = dict[str, Any]

INPUT, OUTPUT = "/opt/ml/processing/input", "/opt/ml/processing/output"
REPORT = "report"
"""Output that every stage has, and name of the property file that conditions read."""
EXECUTION_ID, EXECUTION_ARN = {"Get": "Execution.PipelineExecutionId"}, {"Get": "Execution.PipelineExecutionArn"}


def parameter(name: str) -> Json:
    return {"Get": f"Parameters.{name}"}


def join(on: str, *values: str | Json) -> Json:
    return {"Std:Join": {"On": on, "Values": list(values)}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A step with everything that decides its job."""

    step: Step
    spec: StageSpec
    tier: str
    job: JobSettings
    instance: Instance

    @property
    def name(self) -> str:
        return self.step.name

    @property
    def kind(self) -> Job:
        return self.job.job or self.spec.job


@dataclass(frozen=True, kw_only=True)
class Requests:
    """Writes the requests of one pipeline's steps."""

    account: SageMaker
    run_root: str
    """S3 prefix below which every execution has its folder."""
    kinds: Mapping[str, Job]
    """Kind of job of every step, by name: it decides where the step's outputs lie."""
    parameters: frozenset[str]
    """Names of the pipeline's parameters."""

    def uri(self, source: Parameter | Output) -> Json:
        """Where an artifact lies. A step found in the cache answers with the place of the earlier execution."""
        if isinstance(source, Parameter):
            return parameter(source.name)
        step = f"Steps.{source.step}"
        if self.kinds[source.step] == Job.PROCESSING:
            return {"Get": f"{step}.ProcessingOutputConfig.Outputs['{source.key}'].S3Output.S3Uri"}
        # Not ModelArtifacts.S3ModelArtifacts: whether it ends in a slash is not documented, and S3 keeps a doubled one.
        path, job = {"Get": f"{step}.OutputDataConfig.S3OutputPath"}, {"Get": f"{step}.TrainingJobName"}
        return join("/", path, job, f"output/model/{source.key}")

    def training(self, placed: Placed) -> Json:
        """CreateTrainingJob's request, less the job's name, which SageMaker gives."""
        job, step = placed.job, placed.step
        request = {
            "AlgorithmSpecification": {
                "TrainingImage": step.image,
                "TrainingInputMode": "File",
                "ContainerEntrypoint": list(step.command),
                "ContainerArguments": ["--sagemaker", Mode.TRAINING.value],
                "MetricDefinitions": [
                    {"Name": name, "Regex": rf'"{name}": ([-+0-9.eE]+)'} for name in sorted(TRAINING)
                ],
            },
            "HyperParameters": self._hyperparameters(step),
            "InputDataConfig": [self._channel(name, source) for name, source in sorted(step.artifacts.items())],
            "OutputDataConfig": {
                "S3OutputPath": self._folder(step.name),
                "CompressionType": "NONE",
                **self._key("KmsKeyId"),
            },
            "ResourceConfig": self._machines(placed),
            "StoppingCondition": self._limits(job),
            "EnableNetworkIsolation": job.isolated,
            "EnableInterContainerTrafficEncryption": job.encrypted_traffic,
            "EnableManagedSpotTraining": job.spot_wait_s is not None,
            "Environment": self._environment(placed),
            "RoleArn": self._role(placed.spec),
            "Tags": self._tags(placed),
        }
        if job.checkpoint_interval_s is not None:
            request["CheckpointConfig"] = {"S3Uri": self._checkpoints(placed), "LocalPath": "/opt/ml/checkpoints"}
        if self.account.subnets:
            request["VpcConfig"] = self._network()
        return request

    def processing(self, placed: Placed) -> Json:
        """CreateProcessingJob's request, less the job's name."""
        step = placed.step
        arguments = ["--sagemaker", Mode.PROCESSING.value]
        settings = [
            join("=", key, value) if isinstance(value, dict) else f"{key}={value}"
            for key, value in self._settings(step).items()
        ]
        if settings:
            arguments += ["--set", *settings]  # type: ignore[list-item]
        inputs = {name: self.uri(source) for name, source in sorted(step.artifacts.items())}
        return self._processing(placed, arguments, inputs, sorted(placed.spec.all_outputs))

    def report(self, placed: Placed, producer: str) -> Json:
        """The request that passes on the report of the training step `producer`, so that a condition can read it."""
        inputs = {REPORT: self.uri(Output(step=producer, key=REPORT))}
        return self._processing(placed, ["--sagemaker", Mode.REPORT.value], inputs, [REPORT])

    def _processing(
        self, placed: Placed, arguments: list[Any], inputs: Mapping[str, Json], outputs: Sequence[str]
    ) -> Json:
        environment = self._environment(placed)
        request: Json = {
            "AppSpecification": {
                "ImageUri": placed.step.image,
                "ContainerEntrypoint": list(placed.step.command),
                "ContainerArguments": arguments,
            },
            "ProcessingInputs": [self._input(key, uri) for key, uri in inputs.items()],
            "ProcessingOutputConfig": {
                "Outputs": [self._output(placed.name, key) for key in outputs],
                **self._key("KmsKeyId"),
            },
            "ProcessingResources": {"ClusterConfig": self._machines(placed)},
            "StoppingCondition": {"MaxRuntimeInSeconds": placed.job.max_runtime_s},
            "NetworkConfig": {
                "EnableNetworkIsolation": placed.job.isolated,
                "EnableInterContainerTrafficEncryption": placed.job.encrypted_traffic,
                **({"VpcConfig": self._network()} if self.account.subnets else {}),
            },
            "RoleArn": self._role(placed.spec),
            "Tags": self._tags(placed),
        }
        if environment:
            request["Environment"] = environment
        return request

    def _settings(self, step: Step) -> dict[str, str | Json]:
        """The stage's configuration by dotted key: texts, and references to the pipeline's parameters."""
        found: dict[str, str | Json] = {}
        for key, source in step.parameters.items():
            if isinstance(source, Parameter):
                found[key] = parameter(source.name)
            elif key == "config":
                found |= {name: encode(value) for name, value in flat(json.loads(str(source.value))).items()}
            else:
                assert isinstance(source, Constant)
                found[key] = str(source.value)
        return dict(sorted(found.items()))

    def _hyperparameters(self, step: Step) -> Json:
        """Every value as text: joining a reference with nothing makes a text of whatever type it has."""
        return {
            key: join("", value) if isinstance(value, dict) else value for key, value in self._settings(step).items()
        }

    def _channel(self, name: str, source: Parameter | Output) -> Json:
        where = {
            "S3DataType": "S3Prefix",
            "S3Uri": self.uri(source),
            "S3DataDistributionType": "FullyReplicated",
        }
        return {"ChannelName": name, "DataSource": {"S3DataSource": where}}

    def _input(self, name: str, uri: Json) -> Json:
        source = {
            "S3Uri": uri,
            "LocalPath": f"{INPUT}/{name}",
            "S3DataType": "S3Prefix",
            "S3InputMode": "File",
            "S3DataDistributionType": "FullyReplicated",
            "S3CompressionType": "None",
        }
        return {"InputName": name, "S3Input": source}

    def _output(self, step: str, name: str) -> Json:
        target = {
            "S3Uri": self._folder(step, name),
            "LocalPath": f"{OUTPUT}/{name}",
            "S3UploadMode": "EndOfJob",
        }
        return {"OutputName": name, "S3Output": target}

    def _folder(self, *names: str) -> Json:
        return join("/", self.run_root, EXECUTION_ID, *names)

    def _checkpoints(self, placed: Placed) -> Json:
        """By tier, model type, night and step, never by execution: a retry must find what the attempt before it saved."""
        parts = [parameter(name) for name in ("model_type", "night") if name in self.parameters]
        return join("/", f"{self.account.root}/checkpoints/{placed.tier}", *parts, placed.name)

    def _machines(self, placed: Placed) -> Json:
        job = placed.job
        # A volume key is refused for types with NVMe drives, whose hardware encrypts them.
        key = {} if placed.instance.nvme_gib else self._key("VolumeKmsKeyId")
        return {
            "InstanceType": job.instance_type,
            "InstanceCount": job.instance_count,
            "VolumeSizeInGB": job.volume_gib,
            **key,
        }

    def _limits(self, job: JobSettings) -> Json:
        waiting = {"MaxWaitTimeInSeconds": job.spot_wait_s} if job.spot_wait_s is not None else {}
        return {"MaxRuntimeInSeconds": job.max_runtime_s, **waiting}

    def _network(self) -> Json:
        return {"SecurityGroupIds": list(self.account.security_groups), "Subnets": list(self.account.subnets)}

    def _key(self, name: str) -> Json:
        return {name: self.account.kms_key} if self.account.kms_key else {}

    def _role(self, spec: StageSpec) -> str:
        return self.account.roles.get(spec.name, self.account.role_arn)

    def _environment(self, placed: Placed) -> Json:
        found: Json = dict(placed.step.environment)
        if not placed.job.isolated:
            # boto3 does not read the AWS_REGION that SageMaker sets.
            found["AWS_DEFAULT_REGION"] = self.account.region
        if not placed.step.cached:
            found[EXECUTION_KEY] = EXECUTION_ARN
        return dict(sorted(found.items()))

    def _tags(self, placed: Placed) -> list[Json]:
        values: dict[str, str | Json] = {"cost-centre": self.account.cost_centre}
        values |= {
            name.replace("_", "-"): parameter(name) for name in ("model_type", "night") if name in self.parameters
        }
        values |= {"project": "srl-rlvr", "stage": placed.spec.name, "tier": placed.tier}
        return [{"Key": key, "Value": value} for key, value in sorted(values.items())]
