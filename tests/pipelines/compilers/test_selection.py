"""The pipeline that the weekly state machine starts: what AWS would take, and the command that it runs."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from botocore.session import Session
from botocore.validate import ParamValidator

from components.shared.contracts.errors import UsageError
from components.shared.storage.paths import PROJECT
from pipelines.compilers import selection
from pipelines.compilers.selection import compile_selection, measurements, selection_files
from pipelines.configuration import load_settings


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_its_job_is_one_that_aws_takes(environment):
    (step,) = compile_selection(environment).definition["Steps"]
    model = Session().get_service_model("sagemaker").operation_model("CreateProcessingJob").input_shape
    report = ParamValidator().validate({"ProcessingJobName": "selection", **step["Arguments"]}, model)
    assert not report.has_errors(), report.generate_report()


def test_it_has_the_name_and_the_parameter_that_the_state_machine_starts_it_with():
    machine = json.loads((PROJECT / "step_functions" / "weekly_selection.asl.json").read_text())
    start = machine["States"]["Start"]["Arguments"]
    pipeline = compile_selection("prod")
    assert pipeline.name == start["PipelineName"].replace("${pipeline_prefix}", "srl-rlvr")
    assert [p["Name"] for p in pipeline.definition["Parameters"]] == [p["Name"] for p in start["PipelineParameters"]]


def test_its_arguments_are_those_of_the_command(capsys, monkeypatch):
    from components.shared.selection import __main__ as command

    (step,) = compile_selection("prod").definition["Steps"]
    assert step["Arguments"]["AppSpecification"]["ContainerEntrypoint"][2] == command.__name__.removesuffix(".__main__")
    asked = {}
    monkeypatch.setattr(command, "names", lambda place: asked.update(tables=place) or [])
    monkeypatch.setattr(command, "read_measured", lambda places: asked.update(measured=places[0]) or [])

    def refresh(registry, measured, before):
        raise UsageError(registry)

    monkeypatch.setattr(command, "refresh", refresh)
    assert command.main(step["Arguments"]["AppSpecification"]["ContainerArguments"]) == 2
    assert "sagemaker://srl-rlvr-prod?region=us-east-1" in capsys.readouterr().err
    root = "s3://srl-rlvr-prod/srl-rlvr"
    assert asked == {"tables": f"{root}/selection", "measured": f"{root}/serving/measured"}


def test_what_is_measured_is_added_where_the_job_reads_it(monkeypatch):
    environment = load_settings("prod").environment
    (step,) = compile_selection("prod").definition["Steps"]
    assert measurements(environment) in step["Arguments"]["AppSpecification"]["ContainerArguments"]
    assert measurements(environment.model_copy(update={"measured": "s3://b/m"})) == "s3://b/m"
    assert measurements(load_settings("local").environment, Path("/here")) == "/here/serving/measured"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"measured": "here"}, "measured = 'here' is out of the job's reach: name an s3:// prefix"),
        ({"registry_uri": None}, "names no registry_uri: add sagemaker://GROUP_PREFIX?region=us-east-1"),
    ],
)
def test_what_the_job_could_not_reach_is_refused(monkeypatch, changed, said):
    settings = load_settings("prod")
    environment = settings.environment.model_copy(update=changed)
    changed_settings = dataclasses.replace(settings, environment=environment)
    monkeypatch.setattr(selection, "load_settings", lambda name: changed_settings)
    with pytest.raises(UsageError, match=re.escape(said)):
        compile_selection("prod")


def test_an_environment_without_an_account_has_none():
    with pytest.raises(UsageError):
        selection_files("local")
