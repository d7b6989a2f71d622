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
        assert on_demand.parameters == spot.parameters
        first, again = (account.pipelines.trainings(execution) for execution in (spot, on_demand))
        assert first.keys() == again.keys() == {"srl", "rlvr"}
        for step, (name, request) in first.items():
            other_name, other = again[step]
            assert name != other_name
            assert request["CheckpointConfig"] == other["CheckpointConfig"]
            assert f"/{MODEL}/{NIGHT}/{step}" in request["CheckpointConfig"]["S3Uri"]
            assert (request["EnableManagedSpotTraining"], other["EnableManagedSpotTraining"]) == (True, False)


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
