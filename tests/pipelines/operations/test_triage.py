"""Why a run failed and what comes next: on this machine, and for an execution of the night on moto."""

import json
from datetime import UTC, datetime

import boto3
import pytest
from toys import run_toys, toy_folder

from components.shared.contracts.records import Outcome, Tier
from pipelines.cli import cli
from pipelines.engines.run_folder import TaskState, TaskStatus
from pipelines.operations.triage import MEANS, Failure, classify

EXECUTION = "arn:aws:sagemaker:us-east-1:123456789012:pipeline/srl-rlvr-post-training-gold/execution/abcdefghijkl"
JOB = "arn:aws:sagemaker:us-east-1:123456789012:training-job/pipelines-abc-srl-1"

REASONS = {
    Failure.QUOTA: [
        "ResourceLimitExceeded: The account-level service limit 'ml.p5.48xlarge for training job usage' is 0 Instances",
    ],
    Failure.SPOT: [
        "MaxWaitTimeExceeded: Job did not complete within MaxWaitTime",
        "Training job was interrupted: Spot capacity was reclaimed",
    ],
    Failure.CAPACITY: [
        "CapacityError: Unable to provision requested ML compute capacity.",
        "insufficient capacity error",
    ],
    Failure.MEMORY: [
        "AlgorithmError: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "ended by SIGKILL: probably out of memory",
        "AlgorithmError: exit code: 137",
    ],
    Failure.ACCESS: [
        "AccessDenied: User is not authorized to perform s3:GetObject",
        "ExpiredTokenException: The security token included in the request is expired",
    ],
    Failure.SERVICE: [
        "InternalServerError: We encountered an internal error. Please try again.",
        "ThrottlingException: Rate exceeded",
    ],
    Failure.STOPPED: ["Stopped", "ended by SIGTERM"],
    Failure.DATA: [
        "no object under s3://b/x: check the parameter or the step that should have written it",
        "data_validation: 12 training trajectories, min_train is 100",
        "model.safetensors does not match its sum",
    ],
    Failure.CODE: ["AlgorithmError: ValueError: reward is nan, exit code 1", "srl.fail is True"],
}


@pytest.mark.parametrize(("failure", "reason"), [(f, r) for f, found in REASONS.items() for r in found])
def test_reasons_are_recognised(failure, reason):
    assert classify(reason) == failure


def test_every_class_is_explained():
    assert MEANS.keys() == set(Failure) == REASONS.keys()


def test_where_the_reason_tells_nothing_the_log_does():
    assert classify("exit code 1", ("Traceback", "torch.OutOfMemoryError: CUDA out of memory")) == Failure.MEMORY


def test_a_run_of_this_machine(srl_rlvr, tmp_path):
    run_toys(tmp_path / "runs", "broken", ["grow.fail=true"])
    code, out, err = srl_rlvr("triage", "broken")
    assert code == 0, err
    assert out.startswith("step    grow\nreason  grow.fail is True")
    assert "class   code: none of the known faults" in out
    assert "log\n" in out and "grow.fail is True" in out.split("log\n")[1]
    assert out.rstrip().endswith("srl-rlvr retry broken")


def test_a_run_that_was_killed_for_its_memory(srl_rlvr, tmp_path):
    folder = toy_folder(tmp_path / "runs", "killed")
    failed = TaskState(stage="grow", status=TaskStatus.FAILED, error="ended by SIGKILL: probably out of memory")
    folder.change(outcome=Outcome.FAILED, tasks={"grow": failed})
    found = json.loads(srl_rlvr("triage", "killed", "--json")[1])
    assert (found["failure"], found["step"], found["log"]) == ("memory", "grow", [])
    assert found["next_commands"][0].startswith("srl-rlvr plan toys")


def test_a_run_that_did_not_fail_and_one_that_is_not_there(srl_rlvr, tmp_path):
    run_toys(tmp_path / "runs", "kept", ["judge.bar=9"])
    assert srl_rlvr("triage", "kept")[::2] == (2, "error: run 'kept' has no failed stage: it is refused\n")
    assert srl_rlvr("triage", "kpet")[0] == 2
    assert "is no execution of a pipeline" in srl_rlvr("triage", "arn:aws:s3:::bucket")[2]


@pytest.fixture
def execution(aws, sagemaker_says):
    """A failed execution of the night, whose steps moto does not know, and its job's log, which it does."""

    def play(reason, name="2026-01-06-1-npc-dialogue", status="Failed"):
        step = {"StepName": "srl", "StepStatus": "Failed", "FailureReason": reason}
        answers = {
            "DescribePipelineExecution": {"PipelineExecutionStatus": status, "PipelineExecutionDisplayName": name},
            "ListPipelineExecutionSteps": {
                "PipelineExecutionSteps": [
                    {"StepName": "verification", "StepStatus": "Succeeded"},
                    *([{**step, "Metadata": {"TrainingJob": {"Arn": JOB}}}] if status == "Failed" else []),
                ]
            },
        }

        sagemaker_says(answers)

    return play


def write_log(lines):
    logs = boto3.client("logs", region_name="us-east-1")
    group, stream = "/aws/sagemaker/TrainingJobs", "pipelines-abc-srl-1/algo-1-1"
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName=stream)
    now = int(datetime.now(UTC).timestamp() * 1000)
    events = [{"timestamp": now + i, "message": line} for i, line in enumerate(lines)]
    logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def test_an_execution_of_the_night_with_the_end_of_its_log(srl_rlvr, execution):
    execution("AlgorithmError: exit code 1")
    write_log([f"step {i}" for i in range(50)] + ["torch.OutOfMemoryError: CUDA out of memory"])
    code, out, err = srl_rlvr("triage", EXECUTION, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["step"], found["failure"]) == ("srl", "memory")
    assert len(found["log"]) == 20 and found["log"][-1].startswith("torch.OutOfMemoryError")
    plan, again = found["next_commands"]
    assert plan == "srl-rlvr plan post_training --tier gold --env prod"
    assert "stateMachine:srl-rlvr-prod-nightly --name by-hand-2026-01-06-2" in again
    assert '{"scheduled": "2026-01-06T01:00:00Z", "attempt": 2}' in again


def test_every_next_command_of_the_program_exists(srl_rlvr, execution):
    for reasons in REASONS.values():
        execution(reasons[0])
        for line in json.loads(srl_rlvr("triage", EXECUTION, "--json")[1])["next_commands"]:
            program, name, *_ = line.split()
            assert program == "aws" or name in cli.commands, line


def test_an_execution_that_goes_on(srl_rlvr, execution):
    execution("", status="Executing")
    assert srl_rlvr("triage", EXECUTION)[::2] == (2, f"error: {EXECUTION} did not fail: it is Executing\n")


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("ThrottlingException", "wait, or have the quota raised"),
        ("AccessDeniedException", "let your role do it"),
        ("ExpiredTokenException", "sign in again (`aws sso login`)"),
    ],
)
def test_what_aws_refuses_is_one_line_with_the_remedy(srl_rlvr, aws, code, remedy):
    aws("sagemaker", "DescribePipelineExecution", code)
    exit_code, out, err = srl_rlvr("triage", EXECUTION)
    assert (exit_code, out) == (1, "")
    assert code in err and err.endswith(f"{remedy}\n") and err.count("\n") == 1


def test_retry_goes_on_where_it_failed_and_with_nothing_else(srl_rlvr, tmp_path):
    run_toys(tmp_path / "runs", "kept", ["judge.bar=9"])
    assert "did not fail: it is refused" in srl_rlvr("retry", "kept")[2]
    folder = toy_folder(tmp_path / "runs", "busy")
    with folder.locked():
        code, _, err = srl_rlvr("retry", "busy")
    assert code == 2 and "is at work: srl-rlvr status busy" in err


def test_retry_of_an_execution_asks_sagemaker_once(srl_rlvr, sagemaker_says, configs, tmp_path):
    folder = toy_folder(tmp_path / "runs", "remote")
    facts = {
        "engine": "sagemaker",
        "execution": EXECUTION,
        "environment": "prod",
        "dag": "post_training",
        "tier": Tier.GOLD,
    }
    folder.change(outcome=Outcome.FAILED, **facts)
    asked = []
    sagemaker_says(
        {
            "DescribePipelineExecution": {
                "PipelineExecutionStatus": "Failed",
                "LastModifiedTime": datetime(2026, 1, 6, tzinfo=UTC),
            },
            "RetryPipelineExecution": lambda params: asked.append(json.loads(params["body"])) or {},
        }
    )
    code, out, err = srl_rlvr("retry", "remote")
    assert (code, out) == (0, "the execution goes on: srl-rlvr status remote\n"), err
    assert [call["PipelineExecutionArn"] for call in asked] == [EXECUTION]
    assert toy_folder(tmp_path / "runs", "remote").state.outcome is None
