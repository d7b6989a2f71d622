"""The same pipeline built from the SageMaker SDK's own classes. A program for an interpreter that has the SDK:

    python sdk_oracle.py DAG TIER ENVIRONMENT

It reads the workflow, the tiers and the account as the compiler does, and nothing of what the compiler makes of them; the
definition goes to standard output, what it cost to standard error.
"""

import json
import os
import resource
import sys
import time

os.environ.update(AWS_DEFAULT_REGION="us-east-1", AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x")
os.environ.update(SAGEMAKER_VALIDATE_ROLE="false", AWS_EC2_METADATA_DISABLED="true")
began = time.process_time()

import boto3  # noqa: E402
import jsonschema  # noqa: E402
from sagemaker.core.network import NetworkConfig  # noqa: E402
from sagemaker.core.processing import Processor  # noqa: E402
from sagemaker.core.shapes import (  # noqa: E402
    CheckpointConfig,
    MetricDefinition,
    MlflowConfig,
    OutputDataConfig,
    ProcessingInput,
    ProcessingOutput,
    ProcessingS3Input,
    ProcessingS3Output,
    StoppingCondition,
    Tag,
)
from sagemaker.core.workflow import conditions, parameters  # noqa: E402
from sagemaker.core.workflow.execution_variables import ExecutionVariables  # noqa: E402
from sagemaker.core.workflow.functions import Join, JsonGet  # noqa: E402
from sagemaker.core.workflow.pipeline_context import PipelineSession  # noqa: E402
from sagemaker.core.workflow.pipeline_definition_config import PipelineDefinitionConfig  # noqa: E402
from sagemaker.core.workflow.properties import PropertyFile  # noqa: E402
from sagemaker.mlops.workflow.condition_step import ConditionStep  # noqa: E402
from sagemaker.mlops.workflow.pipeline import Pipeline  # noqa: E402
from sagemaker.mlops.workflow.retry import (  # noqa: E402
    SageMakerJobExceptionTypeEnum,
    SageMakerJobStepRetryPolicy,
    StepExceptionTypeEnum,
    StepRetryPolicy,
)
from sagemaker.mlops.workflow.steps import CacheConfig, ProcessingStep, TrainingStep  # noqa: E402
from sagemaker.train import ModelTrainer  # noqa: E402
from sagemaker.train.configs import Compute, InputData, Networking  # noqa: E402

imported = time.process_time()
# For each value that its configuration might hold, the SDK checks the schema of that configuration: nine tenths of the time.
jsonschema.Draft202012Validator.check_schema = staticmethod(lambda schema: None)

from components.shared.contracts.records import Tier  # noqa: E402
from components.shared.contracts.stage import Job  # noqa: E402
from pipelines.compilers.ir import Constant, Gate, Parameter, gates, read_workflow  # noqa: E402
from pipelines.compilers.kubeflow import compile_dag  # noqa: E402
from pipelines.configuration import load_settings, load_tier  # noqa: E402
from pipelines.definitions.composer import tier_of  # noqa: E402

KINDS = {
    "STRING": (parameters.ParameterString, str),
    "NUMBER_INTEGER": (parameters.ParameterInteger, int),
    "NUMBER_DOUBLE": (parameters.ParameterFloat, float),
}
QUIET = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}
NVME = ("ml.g6", "ml.p5")


class Oracle:
    """Builds one DAG's pipeline as a user of the SDK would."""

    def __init__(self, dag):
        self.dag, self.workflow = dag, read_workflow(dag)
        self.account = dag.settings.environment.sagemaker
        self.session = PipelineSession(
            boto_session=boto3.Session(region_name=self.account.region),
            default_bucket=self.account.bucket,
            sagemaker_config=QUIET,
        )
        self.session._default_bucket = self.account.bucket
        self.parameters = {
            name: KINDS[value["parameterType"]][0](
                name, KINDS[value["parameterType"]][1](value["defaultValue"]) if "defaultValue" in value else None
            )
            for name, value in self.workflow.parameters.items()
        }
        self.made, self.reports = {}, {}
        self.read = {gate.left.step for gate in gates(self.workflow.body)}
        self.root = f"s3://{self.account.bucket}/{self.account.prefix}/runs/{dag.file_stem.replace('_', '-')}"

    def pipeline(self):
        return Pipeline(
            name="oracle",
            parameters=list(self.parameters.values()),
            steps=self.body(self.workflow.body),
            sagemaker_session=self.session,
            pipeline_definition_config=PipelineDefinitionConfig(use_custom_job_prefix=False),
            mlflow_config=MlflowConfig(
                mlflow_resource_arn=self.dag.settings.environment.tracking_uri, mlflow_experiment_name="srl-rlvr"
            ),
        )

    def body(self, nodes):
        found = []
        for node in nodes:
            if isinstance(node, Gate):
                found.append(self.gate(node))
                continue
            job = self.job(node)
            make = self.training if job.job == Job.TRAINING else self.processing
            self.made[node.name] = make(node, job)
            found.append(self.made[node.name])
            if job.job == Job.TRAINING and node.name in self.read:
                self.reports[node.name] = self.report(node)
                found.append(self.reports[node.name])
        return found

    def gate(self, gate):
        step = self.reports.get(gate.left.step) or self.made[gate.left.step]
        value = JsonGet(step_name=step.name, property_file="report", json_path=f"scalars.{gate.left.key}")
        name = f"gate-{gate.name.replace(' ', '-')}"
        return ConditionStep(
            name=name,
            conditions=[conditions.ConditionGreaterThanOrEqualTo(left=value, right=gate.right)],
            if_steps=self.body(gate.body),
            else_steps=[],
        )

    def training(self, step, job):
        settings = {
            key: Join(on="", values=[value]) if not isinstance(value, str) else value
            for key, value in self.settings(step)
        }
        tier = self.tier(step)
        trainer = ModelTrainer(
            sagemaker_session=self.session,
            role=self.role(step),
            training_image=step.image,
            base_job_name=step.name,
            compute=Compute(
                instance_type=job.instance_type,
                instance_count=job.instance_count,
                volume_size_in_gb=job.volume_gib,
                enable_managed_spot_training=job.spot_wait_s is not None,
            ),
            networking=Networking(
                security_group_ids=list(self.account.security_groups),
                subnets=list(self.account.subnets),
                enable_network_isolation=job.isolated,
                enable_inter_container_traffic_encryption=job.encrypted_traffic,
            ),
            stopping_condition=StoppingCondition(
                max_runtime_in_seconds=job.max_runtime_s,
                **({"max_wait_time_in_seconds": job.spot_wait_s} if job.spot_wait_s else {}),
            ),
            output_data_config=OutputDataConfig(
                s3_output_path=self.folder(step.name), compression_type="NONE", kms_key_id=self.account.kms_key
            ),
            checkpoint_config=CheckpointConfig(
                s3_uri=Join(
                    on="/",
                    values=[
                        f"s3://{self.account.bucket}/{self.account.prefix}/checkpoints/{tier}",
                        self.parameters["model_type"],
                        self.parameters["night"],
                        step.name,
                    ],
                ),
                local_path="/opt/ml/checkpoints",
            ),
            environment=dict(step.environment),
            hyperparameters=settings,
            tags=[Tag(key=key, value=value) for key, value in self.tags(step)],
        )
        metrics = "accepted beta entropy forward_kl grad_norm kl kl_probe loss onpolicy_divergence reward reward_std"
        trainer.with_metric_definitions(
            [MetricDefinition(name=name, regex=f'"{name}": ([-+0-9.eE]+)') for name in metrics.split()]
        )
        channels = [
            InputData(channel_name=name, data_source=self.uri(source))
            for name, source in sorted(step.artifacts.items())
        ]
        return TrainingStep(step.name, step_args=trainer.train(input_data_config=channels), **self.around(step))

    def processing(self, step, job):
        texts = [f"{k}={v}" if isinstance(v, str) else Join(on="=", values=[k, v]) for k, v in self.settings(step)]
        outputs = sorted(self.dag.tasks[step.task].spec.all_outputs)
        environment = {**step.environment, "AWS_DEFAULT_REGION": self.account.region}
        if not step.cached:
            environment["SRL_RLVR_EXECUTION_KEY"] = ExecutionVariables.PIPELINE_EXECUTION_ARN
        made = self.processor(
            step,
            job,
            step.image,
            step.name,
            {k: self.uri(v) for k, v in sorted(step.artifacts.items())},
            outputs,
            ["--sagemaker", "processing", *(["--set", *texts] if texts else [])],
            environment,
        )
        return ProcessingStep(
            step.name, step_args=made, **self.around(step), **self.property_files(step.name in self.read)
        )

    def report(self, step):
        name, job = f"report-{step.name}", load_tier(self.tier(step)).jobs.processing
        image = self.dag.settings.environment.image("data")
        uri = self.join_output(step.name, "report")
        made = self.processor(
            step,
            job,
            image,
            name,
            {"report": uri},
            ["report"],
            ["--sagemaker", "report"],
            {"AWS_DEFAULT_REGION": self.account.region},
        )
        return ProcessingStep(name, step_args=made, **self.around(step), **self.property_files(True))

    def processor(self, step, job, image, name, inputs, outputs, arguments, environment):
        nvme = job.instance_type.startswith(NVME)
        processor = Processor(
            role=self.role(step),
            image_uri=image,
            instance_count=job.instance_count,
            instance_type=job.instance_type,
            entrypoint=list(step.command),
            volume_size_in_gb=job.volume_gib,
            volume_kms_key=None if nvme else self.account.kms_key,
            output_kms_key=self.account.kms_key,
            max_runtime_in_seconds=job.max_runtime_s,
            sagemaker_session=self.session,
            env=environment or None,
            tags=[{"Key": key, "Value": value} for key, value in self.tags(step)],
            network_config=NetworkConfig(
                enable_network_isolation=job.isolated,
                security_group_ids=list(self.account.security_groups),
                subnets=list(self.account.subnets),
                encrypt_inter_container_traffic=job.encrypted_traffic,
            ),
        )
        return processor.run(
            arguments=arguments,
            kms_key=self.account.kms_key,
            inputs=[
                ProcessingInput(
                    input_name=key,
                    s3_input=ProcessingS3Input(
                        s3_uri=uri,
                        local_path=f"/opt/ml/processing/input/{key}",
                        s3_data_type="S3Prefix",
                        s3_input_mode="File",
                        s3_data_distribution_type="FullyReplicated",
                        s3_compression_type="None",
                    ),
                )
                for key, uri in inputs.items()
            ],
            outputs=[
                ProcessingOutput(
                    output_name=key,
                    s3_output=ProcessingS3Output(
                        s3_uri=self.folder(name, key),
                        local_path=f"/opt/ml/processing/output/{key}",
                        s3_upload_mode="EndOfJob",
                    ),
                )
                for key in outputs
            ],
        )

    def around(self, step):
        jobs = load_tier(self.tier(step)).jobs
        options = {"backoff_rate": step.retries.backoff, "interval_seconds": step.retries.interval_s}
        retry = [
            StepRetryPolicy(
                [StepExceptionTypeEnum.SERVICE_FAULT, StepExceptionTypeEnum.THROTTLING],
                max_attempts=step.retries.count,
                **options,
            ),
            SageMakerJobStepRetryPolicy(
                [SageMakerJobExceptionTypeEnum.INTERNAL_ERROR], max_attempts=step.retries.count, **options
            ),
            SageMakerJobStepRetryPolicy(
                [SageMakerJobExceptionTypeEnum.CAPACITY_ERROR, SageMakerJobExceptionTypeEnum.RESOURCE_LIMIT],
                expire_after_mins=jobs.retry.capacity_patience_min,
                **options,
            ),
        ]
        cache = CacheConfig(enable_caching=True, expire_after=f"P{jobs.cache_days}D") if step.cached else None
        return {"retry_policies": retry, "cache_config": cache}

    def property_files(self, wanted):
        return {"property_files": [PropertyFile("report", "report", "report.json")]} if wanted else {}

    def settings(self, step):
        found = {}
        for key, source in step.parameters.items():
            if isinstance(source, Parameter):
                found[key] = self.parameters[source.name]
                continue
            assert isinstance(source, Constant)
            found |= dict(flattened(json.loads(source.value)))
        return sorted(found.items())

    def uri(self, source):
        if isinstance(source, Parameter):
            return self.parameters[source.name]
        step = self.made[source.step]
        if isinstance(step, ProcessingStep):
            return step.properties.ProcessingOutputConfig.Outputs[source.key].S3Output.S3Uri
        return self.join_output(source.step, source.key)

    def join_output(self, step, key):
        found = self.made[step].properties
        return Join(on="/", values=[found.OutputDataConfig.S3OutputPath, found.TrainingJobName, f"output/model/{key}"])

    def folder(self, *names):
        return Join(on="/", values=[self.root, ExecutionVariables.PIPELINE_EXECUTION_ID, *names])

    def tags(self, step):
        found = {"cost-centre": self.account.cost_centre, "project": "srl-rlvr", "stage": self.stage(step)}
        found |= {"model-type": self.parameters["model_type"], "night": self.parameters["night"]}
        return sorted({**found, "tier": str(self.tier(step))}.items())

    def role(self, step):
        return self.account.roles.get(self.stage(step), self.account.role_arn)

    def stage(self, step):
        return self.dag.tasks[step.task].spec.name

    def tier(self, step):
        return tier_of(self.dag.tasks[step.task].config, self.dag.settings.tier)

    def job(self, step):
        return load_tier(self.tier(step)).jobs.of(self.dag.tasks[step.task].spec)


def flattened(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def main():
    name, tier, environment = sys.argv[1:]
    dag = compile_dag(name, load_settings(environment, Tier(tier)))
    print(Oracle(dag).pipeline().definition())
    used = resource.getrusage(resource.RUSAGE_SELF)
    cost = {"import": imported - began, "all": used.ru_utime + used.ru_stime, "mib": used.ru_maxrss / 1024}
    print(json.dumps(cost), file=sys.stderr)


if __name__ == "__main__":
    main()
