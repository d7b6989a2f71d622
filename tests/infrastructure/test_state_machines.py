"""The project's own state machines, as Terraform deploys them."""

import json
import re
import shutil

import pytest
from deployment import PROJECT, Stack, listed

pytestmark = pytest.mark.slow

MACHINES = PROJECT / "step_functions"
ACCOUNT = "111122223333"
DATA = "arn:aws:s3:::srl-rlvr-prod/srl-rlvr"


@pytest.fixture(scope="module")
def deployed(terraform, tmp_path_factory):
    """Definitions and policies of an account that is deployed with the project's machines, by machine."""
    folder = tmp_path_factory.mktemp("machines")
    shutil.copytree(PROJECT / "configs", folder / "configs")
    (folder / "sagemaker").mkdir()
    stack = Stack(terraform=terraform, environment="prod", folder=folder)
    arguments = stack.arguments(state_machines_dir=MACHINES)
    terraform("apply", "-input=false", "-auto-approve", f"-state={stack.state}", *arguments)
    (module,) = (
        module
        for module in json.loads(terraform("show", "-json", stack.state))["values"]["root_module"]["child_modules"]
        if module["address"] == "module.orchestration"
    )
    return {
        resource["address"].removeprefix("module.orchestration."): resource["values"]
        for resource in module["resources"]
    }


def definition(deployed, name):
    return deployed[f'aws_sfn_state_machine.this["{name}"]']["definition"]


def granted(deployed, name):
    """Resources by action."""
    policy = json.loads(deployed[f'aws_iam_role_policy.machine["{name}"]']["policy"])
    return {
        action: listed(statement["Resource"])
        for statement in policy["Statement"]
        for action in listed(statement["Action"])
    }


def test_every_machine_is_deployed_with_its_placeholders_filled(deployed):
    for file in MACHINES.glob("*.asl.json"):
        text = definition(deployed, file.name.removesuffix(".asl.json").replace("_", "-"))
        assert "${" not in text and "%{" not in text
        assert json.loads(text)["QueryLanguage"] == "JSONata"


def test_production_promotes_by_hand_and_knows_its_model_types(deployed):
    assert "'manual' != 'auto'" in definition(deployed, "training-run")
    assert "$split('npc_dialogue,reasoning,story_generation', ',')" in definition(deployed, "nightly")


def test_a_machine_may_do_what_its_own_definition_does(deployed):
    allowed = granted(deployed, "training-run")
    calls = set(re.findall(r"aws-sdk:(\w+:\w+)", (MACHINES / "training_run.asl.json").read_text()))
    assert len(allowed) == len(calls) + 1  # sns:publish is no aws-sdk call
    for step in ("register-*", "evaluation", "distill-*"):
        assert f"{DATA}/runs/*/{step}/*" in allowed["s3:GetObject"]
    assert allowed["s3:PutObject"] == [f"{DATA}/nights/*"]
    assert (
        f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:model-package-group/srl-rlvr-prod-*"
        in allowed["sagemaker:CreateModelPackage"]
    )


def test_the_collection_reads_what_its_jobs_left_and_touches_no_version(deployed):
    allowed = granted(deployed, "collection")
    assert "arn:aws:s3:::srl-rlvr-prod/traces/collected/*" in allowed["s3:GetObject"]
    assert not [arn for arn in allowed["s3:GetObject"] if "/traces/served" in arn]
    assert allowed["s3:PutObject"] == [f"{DATA}/nights/*"]
    assert not allowed.keys() & {"sagemaker:CreateModelPackage", "sagemaker:UpdateModelPackage", "s3:DeleteObject"}


def test_waiting_for_a_run_needs_the_rule_that_step_functions_makes(deployed):
    allowed = granted(deployed, "nightly")
    assert allowed["events:PutRule"] == [
        f"arn:aws:events:us-east-1:{ACCOUNT}:rule/StepFunctionsGetEventsForStepFunctionsExecutionRule"
    ]
    assert {"states:StartExecution", "states:DescribeExecution", "states:StopExecution"} <= allowed.keys()


def test_a_run_falls_back_within_its_tiers_budget_and_only_to_what_is_deployed(deployed):
    """No definition is compiled in this account yet, so none has a price, and nothing may fall back."""
    text = definition(deployed, "training-run")
    assert "$lookup({'bronze':30000,'gold':300,'silver':3000}, $states.input.tier)" in text
    assert "$lookup({}, $replace($states.input.dag" in text


def test_a_tier_costs_what_its_machines_are_listed_for(deployed):
    assert "{'bronze': 393.2, 'silver': 98.3, 'gold': 5.75}" in definition(deployed, "training-run")
