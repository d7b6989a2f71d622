"""The model package of an execution that somebody started by hand: as the night makes it, and once."""

import boto3
import pytest
from botocore.exceptions import ClientError

from components.shared.contracts.stage import Report
from pipelines.configuration import load_settings
from pipelines.engines.run_folder import RunState
from pipelines.launch import model_package

pytestmark = pytest.mark.slow

ACCOUNT, REGION = "123456789012", "us-east-1"
GROUP = "srl-rlvr-prod-npc-dialogue-gold"
EXECUTION = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:pipeline/srl-rlvr-post-training-gold/execution/abc"
JOB = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:processing-job/pipelines-abc-register-gold-1"
RUN = "s3://srl-rlvr-prod/srl-rlvr/runs/srl-rlvr-post-training-gold/abc"


@pytest.fixture
def hand_started(aws, sagemaker_says):
    """What AWS says of an execution that registered a policy; `alias` is what its version holds in MLflow."""
    known = boto3.client
    known("s3", region_name=REGION).create_bucket(Bucket="srl-rlvr-prod")

    def play(digest="d" * 64, *, alias="challenger", outcome="registered", status="Succeeded", registered=True):
        details = {
            "name": "npc_dialogue-gold",
            "version": 3,
            "alias": alias,
            "policy_digest": digest,
            "outcome": outcome,
        }
        lineage = {"dataset_digest": "e" * 64, "compared_with": "b" * 64}
        report = Report(stage="registration", summary="", details={**details, "lineage": lineage})
        key = f"{RUN}/register-gold/report/report.json".removeprefix("s3://srl-rlvr-prod/")
        known("s3", region_name=REGION).put_object(Bucket="srl-rlvr-prod", Key=key, Body=report.model_dump_json())
        steps = [{"StepName": "evaluation", "StepStatus": "Succeeded"}]
        if registered:
            step = {"StepName": "register-gold", "StepStatus": "Succeeded"}
            steps.append({**step, "Metadata": {"ProcessingJob": {"Arn": JOB}}})
        inputs = {name: f"{RUN}/evaluation/{place}" for name, place in PLACES.items()}
        output = {"OutputName": "report", "S3Output": {"S3Uri": f"{RUN}/register-gold/report"}}
        answers = {
            "DescribePipelineExecution": {"PipelineExecutionStatus": status},
            "ListPipelineExecutionSteps": {"PipelineExecutionSteps": steps},
            "ListPipelineParametersForExecution": {"PipelineParameters": [{"Name": "night", "Value": "2026-01-06"}]},
            "DescribeProcessingJob": {
                "ProcessingJobArn": JOB,
                "ProcessingInputs": [{"InputName": n, "S3Input": {"S3Uri": uri}} for n, uri in inputs.items()],
                "ProcessingOutputConfig": {"Outputs": [output]},
            },
        }

        sagemaker_says(answers)

    return play


PLACES = {"policy": "accepted_policy", "evidence": "report"}


def packages():
    sagemaker = boto3.client("sagemaker", region_name=REGION)
    try:
        listed = sagemaker.list_model_packages(ModelPackageGroupName=GROUP)["ModelPackageSummaryList"]
    except ClientError:
        return []
    return [sagemaker.describe_model_package(ModelPackageName=item["ModelPackageArn"]) for item in listed]


def test_it_is_made_as_the_night_makes_it_once_and_waits_for_a_person(srl_rlvr, hand_started):
    hand_started()
    for _ in range(2):
        code, out, err = srl_rlvr("package", EXECUTION, "--env", "prod")
        (made,) = packages()
        arn = made["ModelPackageArn"]
        assert (code, out) == (0, f"{arn}: srl-rlvr promote {arn} --env prod\n"), err
    assert made["ModelApprovalStatus"] == "PendingManualApproval"
    assert made["MetadataProperties"]["GeneratedBy"] == EXECUTION
    (container,) = made["InferenceSpecification"]["Containers"]
    assert container["Image"] == f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/srl-rlvr/serving:0.1.0"
    assert container["ModelDataSource"]["S3DataSource"]["S3Uri"] == f"{RUN}/evaluation/accepted_policy/"
    assert made["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"] == f"{RUN}/evaluation/report/report.json"
    assert made["CustomerMetadataProperties"] == {
        "night": "2026-01-06",
        "policy_digest": "d" * 64,
        "dataset_digest": "e" * 64,
        "compared_with": "b" * 64,
        "registry_version": "3",
        "profile": f"{RUN}/data-validation/dataset/profile.json",
    }


def test_what_the_night_has_packaged_keeps_its_package(srl_rlvr, hand_started):
    hand_started("n" * 64)
    sagemaker = boto3.client("sagemaker", region_name=REGION)
    sagemaker.create_model_package_group(ModelPackageGroupName=GROUP)
    nightly = sagemaker.create_model_package(
        ModelPackageGroupName=GROUP,
        ModelApprovalStatus="Approved",
        CustomerMetadataProperties={"policy_digest": "n" * 64},
        InferenceSpecification={
            "Containers": [{"Image": "i"}],
            "SupportedContentTypes": ["application/json"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
    )["ModelPackageArn"]
    assert srl_rlvr("package", EXECUTION, "--env", "prod")[1] == f"{nightly}: it serves\n"
    assert len(packages()) == 1


def test_where_the_gate_promotes_it_serves_unless_another_champion_came(srl_rlvr, hand_started):
    hand_started("a" * 64, alias="champion")
    assert srl_rlvr("package", EXECUTION, "--env", "prod")[1].endswith("/1: it serves now\n")
    hand_started("c" * 64, alias="champion")
    out = srl_rlvr("package", EXECUTION, "--env", "prod")[1]
    assert out.endswith("/2 --env prod\n"), "it was compared with b..., and a... serves"
    hand_started("f" * 64, alias="challenger", outcome="stale")
    assert "another champion came since it was compared" in srl_rlvr("package", EXECUTION, "--env", "prod")[1]
    assert [package["ModelApprovalStatus"] for package in packages()].count("Approved") == 1


@pytest.mark.parametrize(
    ("played", "said"),
    [
        ({"status": "Executing"}, f"{EXECUTION} is Executing: a package is made of what has succeeded"),
        ({"registered": False}, f"{EXECUTION} registered nothing: its gate kept the champion"),
    ],
)
def test_what_registered_nothing_has_no_package(srl_rlvr, hand_started, played, said):
    hand_started(**played)
    code, out, err = srl_rlvr("package", EXECUTION, "--env", "prod")
    assert (code, out) == (2, "") and said in err and err.count("\n") == 1
    assert packages() == []


def test_a_run_that_is_followed_to_its_end_says_what_became_of_its_package(hand_started, aws, tmp_path):
    hand_started()
    settings = load_settings("prod")
    state = RunState.model_validate(
        {
            "run_id": "r", "dag": "post_training", "engine": "sagemaker", "environment": "prod", "tier": "gold",
            "assignments": [], "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "started": "2026-01-06T00:00:00Z",
            "tasks": {}, "execution": EXECUTION, "outcome": "registered",
        }
    )  # fmt: skip
    assert "srl-rlvr promote" in str(model_package(settings, state)) and len(packages()) == 1
    assert model_package(settings, state.model_copy(update={"outcome": "refused"})) is None
    aws("sagemaker", "ListModelPackages", "AccessDeniedException")
    assert "not made: " in model_package(settings, state)
    assert f"srl-rlvr package {EXECUTION} --env prod" in model_package(settings, state)
