"""Every job request against botocore's service model: members, types, enumerations, lengths, patterns, quotas."""

import re

import botocore.session
import pytest
from botocore.validate import ParamValidator

from components.entrypoints.sagemaker import configuration
from pipelines.compilers import sagemaker_checks as checks
from pipelines.compilers.kubeflow import compile_dag
from pipelines.compilers.sagemaker import compile_sagemaker
from pipelines.compilers.sagemaker_checks import all_steps
from pipelines.configuration import load_settings
from pipelines.job_settings import instances

JOBS = {"Training": "TrainingJob", "Processing": "ProcessingJob"}
VALUES = {"seed": "7", "threshold": "0.7", "min_gain": "0.01", "model_type": "npc_dialogue", "world": "wrackmere"}
VALUES |= {"night": "2026-11-24"}


@pytest.fixture(scope="session")
def service():
    return botocore.session.get_session().get_service_model("sagemaker")


def substituted(value, steps, service):
    """A request with every reference replaced by what it could be. A reference to what a job does not have fails."""
    if isinstance(value, list):
        return [substituted(item, steps, service) for item in value]
    if not isinstance(value, dict):
        return value
    if "Get" in value:
        return got(value["Get"], steps, service)
    if "Std:Join" in value:
        parts = substituted(value["Std:Join"]["Values"], steps, service)
        return value["Std:Join"]["On"].join(parts)
    return {key: substituted(item, steps, service) for key, item in value.items()}


def got(path, steps, service):
    root, name, *members = re.findall(r"[\w-]+\['\w+'\]|[\w-]+", path)
    if root == "Parameters":
        return VALUES.get(name, f"s3://bucket/{name}")
    if root == "Execution":
        assert name in ("PipelineExecutionId", "PipelineExecutionArn")
        return "abcdefghijkl"
    shape = service.operation_model(f"Describe{JOBS[steps[name]['Type']]}").output_shape
    for member in members:
        field, _, key = member.partition("[")
        shape = shape.members[field]
        if key:
            outputs = steps[name]["Arguments"]["ProcessingOutputConfig"]["Outputs"]
            assert key.strip("[']") in [output["OutputName"] for output in outputs]
            shape = shape.member
    return "s3://bucket/key" if shape.name == "S3Uri" else "job-1"


def faults(value, shape, where):
    """What botocore leaves to the service: enumerations, patterns, and lengths."""
    limits = shape.metadata
    if shape.type_name == "structure":
        for key, item in value.items():
            yield from faults(item, shape.members[key], f"{where}.{key}")
    elif shape.type_name == "list":
        yield from too_many(len(value), limits, where)
        for number, item in enumerate(value):
            yield from faults(item, shape.member, f"{where}[{number}]")
    elif shape.type_name == "map":
        yield from too_many(len(value), limits, where)
        for key, item in value.items():
            yield from faults(key, shape.key, f"{where}.{key}")
            yield from faults(item, shape.value, f"{where}.{key}")
    elif shape.type_name == "string":
        yield from too_many(len(value), limits, where)
        # Java's classes of letters, separators and digits have no counterpart in `re`.
        pattern = limits.get("pattern", ".*").replace(r"\p{L}\p{Z}\p{N}", r"\w ")
        if not re.fullmatch(pattern, value, re.DOTALL):
            yield f"{where}: {value!r} does not match {pattern}"
        if "enum" in limits and value not in limits["enum"]:
            yield f"{where}: {value!r} is none of {limits['enum'][:5]}..."
    elif shape.type_name in ("integer", "long"):
        yield from too_many(value, limits, where)


def too_many(found, limits, where):
    if not limits.get("min", found) <= found <= limits.get("max", found):
        yield f"{where}: {found} is not within {limits.get('min')}..{limits.get('max')}"


def test_every_request_is_one_that_the_service_takes(sagemaker_pipeline, service):
    steps = {step["Name"]: step for step in all_steps(sagemaker_pipeline.definition["Steps"])}
    for name, step in steps.items():
        if step["Type"] == "Condition":
            continue
        job = JOBS[step["Type"]]
        shape = service.operation_model(f"Create{job}").input_shape
        request = {f"{job}Name": "job-1", **substituted(step["Arguments"], steps, service)}
        report = ParamValidator().validate(request, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
        assert list(faults(request, shape, name)) == []


def test_the_pipeline_itself_is_one_that_the_service_takes(sagemaker_pipeline, service):
    request = {
        **sagemaker_pipeline.request(),
        "PipelineDefinition": sagemaker_pipeline.definition_text(),
        "ClientRequestToken": "x" * 32,
    }
    shape = service.operation_model("CreatePipeline").input_shape
    assert not ParamValidator().validate(request, shape).has_errors()
    assert list(faults(request, shape, "pipeline")) == []


def test_conditions_read_files_that_their_steps_put_out(sagemaker_pipeline):
    steps = {step["Name"]: step for step in all_steps(sagemaker_pipeline.definition["Steps"])}
    for gate in (step for step in steps.values() if step["Type"] == "Condition"):
        file = gate["Arguments"]["Conditions"][0]["LeftValue"]["Std:JsonGet"]["PropertyFile"]["Get"]
        _, step, _, name = file.split(".")
        assert steps[step]["Type"] == "Processing"
        assert [found["PropertyFileName"] for found in steps[step]["PropertyFiles"]] == [name]


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_a_jobs_texts_are_the_very_configuration_that_was_compiled(case, environment, service):
    dag = compile_dag(case[0], load_settings(environment, case[1]))
    steps = {step["Name"]: step for step in all_steps(compile_sagemaker(dag).definition["Steps"])}
    for name, task in dag.tasks.items():
        step = steps[name.replace("_", "-")]
        request = substituted(step["Arguments"], steps, service)
        if step["Type"] == "Training":
            texts = request["HyperParameters"]
        else:
            texts = dict(item.split("=", 1) for item in request["AppSpecification"]["ContainerArguments"][3:])
        config = task.spec.config.model_validate(configuration(task.spec, texts))
        exposed = set(task.spec.parameters)
        assert config.model_dump(exclude=exposed) == task.config.model_dump(exclude=exposed)


def test_nothing_in_a_cache_key_holds_the_execution(sagemaker_pipeline):
    keys = ("AppSpecification", "ProcessingInputs", "AlgorithmSpecification", "CheckpointConfig", "Environment")
    keys += ("HyperParameters", "InputDataConfig")
    for step in all_steps(sagemaker_pipeline.definition["Steps"]):
        if step.get("CacheConfig", {}).get("Enabled"):
            assert "Execution." not in str([step["Arguments"].get(key) for key in keys])


def test_our_limits_are_the_services(service):
    shapes = {name: service.shape_for(name).metadata for name in service.shape_names}
    assert shapes["PipelineParameterName"]["max"] >= 64
    assert shapes["StepName"]["max"] == 64
    assert shapes["PipelineDefinition"]["max"] == checks.MAX_DEFINITION
    assert shapes["ParameterList"]["max"] == checks.MAX_PARAMETERS
    assert shapes["HyperParameters"]["max"] == checks.MAX_HYPERPARAMETERS
    assert shapes["HyperParameterValue"]["max"] == checks.MAX_HYPERPARAMETER
    assert shapes["ContainerArguments"]["max"] == checks.MAX_ARGUMENTS
    assert shapes["ContainerArgument"]["max"] == checks.MAX_ARGUMENT
    assert shapes["TrainingEnvironmentValue"]["max"] == checks.MAX_ENVIRONMENT["Training"]
    assert shapes["ProcessingEnvironmentValue"]["max"] == checks.MAX_ENVIRONMENT["Processing"]
    assert shapes["InputDataConfig"]["max"] == checks.MAX_CHANNELS
    assert shapes["ProcessingInputs"]["max"] == shapes["ProcessingOutputs"]["max"] == checks.MAX_MOUNTS


def test_the_instance_table_names_types_and_jobs_that_exist(service):
    kinds = {kind: service.shape_for(f"{kind.capitalize()}InstanceType").enum for kind in ("training", "processing")}
    for name, instance in instances().items():
        assert {kind for kind, listed in kinds.items() if name in listed} == set(instance.jobs), name
