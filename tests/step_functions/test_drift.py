"""A night is compared with the data of the version that serves: the version itself says where its profile lies."""

import json

import pytest
from aws_account import aws_account
from fault_scripts import MODEL, NIGHT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("tier", ["silver", "bronze"])
def test_the_second_night_is_told_of_the_first_ones_data_and_distillation_is_not(tier):
    """Bronze is evaluated by a training job, whose report lies elsewhere than a processing job's."""
    with aws_account() as account:
        for name, night in (("one", NIGHT), ("two", "2026-01-07")):
            run = {"night": night, "attempt": 1, "dag": "post_training", "model_type": MODEL, "tier": tier}
            ended = json.loads(account.end(account.start("training-run", run | {"alone": False}, name))["output"])
            assert ended["outcome"] == "registered"
        first, second = account.pipelines.executions
        assert first.parameters["accepted"] == "none"
        outputs = {
            item["OutputName"]: item["S3Output"]["S3Uri"]
            for step, _, arguments in account.pipelines._jobs(first)
            if step == "data-validation"
            for item in arguments["ProcessingOutputConfig"]["Outputs"]
        }
        assert second.parameters["accepted"] == f"{outputs['dataset']}/profile.json"


def test_a_version_of_an_earlier_release_names_no_profile():
    with aws_account() as account:
        account.add_version("silver")
        run = {"night": NIGHT, "attempt": 1, "dag": "post_training", "model_type": MODEL, "tier": "silver"}
        account.end(account.start("training-run", run | {"alone": False}, "one"))
        assert account.pipelines.executions[0].parameters["accepted"] == "none"
