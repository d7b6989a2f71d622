"""Spot gives way to machines on demand: another definition, and the checkpoints that Spot left."""

import json

import pytest
from aws_account import aws_account
from fault_scripts import MODEL, NIGHT, SPOT
from pipeline_runs import Course

pytestmark = pytest.mark.slow

RUN = {"night": NIGHT, "attempt": 1, "dag": "post_training", "model_type": MODEL, "tier": "silver", "alone": False}


def test_every_try_has_jobs_of_its_own_and_the_checkpoints_of_the_one_before():
    with aws_account() as account:
        account.pipelines.courses["post_training-silver", MODEL] = [Course(end="Failed", reason="CapacityError"), SPOT]
        ended = json.loads(account.end(account.start("training-run", RUN, "run"))["output"])
        spot, on_demand = account.pipelines.executions
        assert (spot.pipeline, len(spot.attempts)) == ("post_training-silver", 2)
        assert (on_demand.pipeline, ended["on_demand"]) == ("post_training-silver-on-demand", True)
        data, jobs = outputs_of(account, spot), [step for step, *_ in account.pipelines._jobs(on_demand)]
        assert jobs == ["srl", "rlvr", "evaluation", "register-silver"], "the data is not made again"
        assert on_demand.parameters["dataset_uri"] == f"{data['data-validation']['dataset']}/"
        assert all(
            spot.parameters[name] == value for name, value in on_demand.parameters.items() if name != "dataset_uri"
        )
        assert account.record(f"state/{MODEL}/traces.json")["uri"] == f"{data['verification']['verified']}/"
        (package,) = account.packages.values()
        assert package["CustomerMetadataProperties"]["profile"] == f"{data['data-validation']['dataset']}/profile.json"
        first, again = (account.pipelines.trainings(execution) for execution in (spot, on_demand))
        assert first.keys() == again.keys() == {"srl", "rlvr"}
        for step, (name, request) in first.items():
            other_name, other = again[step]
            assert name != other_name
            assert request["CheckpointConfig"] == other["CheckpointConfig"]
            assert f"/{MODEL}/{NIGHT}/{step}" in request["CheckpointConfig"]["S3Uri"]
            assert (request["EnableManagedSpotTraining"], other["EnableManagedSpotTraining"]) == (True, False)


def outputs_of(account, execution):
    """URIs of what the processing jobs of an execution put out, by step and name."""
    return {
        step: {
            item["OutputName"]: item["S3Output"]["S3Uri"]
            for item in request.get("ProcessingOutputConfig", {}).get("Outputs", ())
        }
        for step, _, request in account.pipelines._jobs(execution)
    }


def test_a_distillation_goes_on_demand_with_its_parameters():
    run = RUN | {"dag": "distillation"}
    with aws_account() as account:
        account.add_version("bronze")
        account.put("s3://srl-rlvr-prod/traces/collected/t/manifest.json", '{"kind": "trajectories"}')
        account.put_record(f"state/{MODEL}/traces.json", {"uri": "s3://srl-rlvr-prod/traces/collected/t/"})
        lost = Course(end="Failed", fails_at="distill-silver", reason="MaxWaitTimeExceeded")
        account.pipelines.courses["distillation-silver", MODEL] = [lost]
        ended = json.loads(account.end(account.start("training-run", run, "run"))["output"])
        spot, on_demand = account.pipelines.executions
    assert (ended["outcome"], ended["on_demand"]) == ("registered", True)
    assert on_demand.parameters == spot.parameters


def test_a_run_that_lost_its_machines_before_its_data_was_there_does_not_go_on_demand():
    with aws_account() as account:
        lost = Course(end="Failed", fails_at="verification", reason="CapacityError")
        account.pipelines.courses["post_training-silver", MODEL] = [lost] * 3
        ended = json.loads(account.end(account.start("training-run", RUN, "run"))["output"])
        assert (ended["outcome"], ended["on_demand"]) == ("failed", False)
        assert ended["detail"] == "verification: CapacityError"
        assert [len(execution.attempts) for execution in account.pipelines.executions] == [3]


def test_a_run_that_went_on_demand_is_taken_over_as_such():
    """The flight says so before anything is started: whoever finds it starts the second definition."""
    with aws_account() as account:
        account.pipelines.courses["post_training-silver", MODEL] = [SPOT]
        account.pipelines.courses["post_training-silver-on-demand", MODEL] = [Course(polls=10_000)]
        account.abort_when_flying(account.start("training-run", RUN, "lost"))
        account.pipelines.executions[1].attempts[-1] = Course()
        ended = json.loads(account.end(account.start("training-run", RUN | {"attempt": 2}, "again"))["output"])
        assert (ended["outcome"], ended["on_demand"]) == ("registered", True)
        assert len(account.pipelines.executions) == 2
