"""The SageMaker engine on moto: real clients and requests. What moto cannot do, steps and their statuses, is scripted at
the wire, below botocore's own checks of the request."""

import json
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from moto import mock_aws
from toy_stage import spec_of
from toys import define, toy_folder

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Outcome, Tier
from components.shared.contracts.stage import ArtifactKind, Report
from components.shared.performance.mlflow_store import REGISTRY, TRACKING_URI
from components.shared.performance.model_registry import ModelRegistry
from components.shared.performance.sagemaker_registry import SageMakerRegistry
from components.shared.storage.artifacts import seal, write_text
from pipelines.compilers.kubeflow import compile_dag, compile_definition
from pipelines.compilers.sagemaker import compile_sagemaker
from pipelines.configuration import Environment, Settings, load_settings
from pipelines.definitions.composer import Composer
from pipelines.engines.local import fresh_tasks
from pipelines.engines.remote_inputs import remote_inputs
from pipelines.engines.run_folder import TaskStatus
from pipelines.engines.sagemaker import SageMakerEngine, real_account, request_token
from pipelines.job_settings import SageMaker
from pipelines.launch import registry_of, registry_of_stages

ACCOUNT = SageMaker(
    account_id="123456789012",
    region="us-east-1",
    role_arn="arn:aws:iam::123456789012:role/pipeline",
    bucket="toys-bucket",
)
BEGAN = datetime(2026, 11, 24, 2, 0, tzinfo=UTC)
JOBS = "arn:aws:sagemaker:us-east-1:123456789012"


class Script:
    """What AWS answers to the calls that moto lacks, and which of them were made."""

    def __init__(self, *polls):
        self.polls, self.calls = list(polls), []

    def answer(self, model, params, **_):
        name, body = model.name, json.loads(params["body"])
        self.calls.append((name, body))
        if name == "DescribePipelineExecution":
            return {"PipelineExecutionStatus": self.polls[0][0], "LastModifiedTime": BEGAN}
        if name == "ListPipelineExecutionSteps":
            _, steps = self.polls.pop(0) if len(self.polls) > 1 else self.polls[0]
            return {"PipelineExecutionSteps": steps}
        return {"PipelineExecutionArn": body["PipelineExecutionArn"]}

    def made(self, name):
        return [body for call, body in self.calls if call == name]


SCRIPTED = (
    "DescribePipelineExecution",
    "ListPipelineExecutionSteps",
    "RetryPipelineExecution",
    "StopPipelineExecution",
)


@pytest.fixture
def aws(monkeypatch):
    """moto's account with a bucket; `play` scripts the rest."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    original = boto3.client
    with mock_aws():
        original("s3", region_name="us-east-1").create_bucket(Bucket=ACCOUNT.bucket)

        def play(script):
            def client(service, **options):
                made = original(service, **options)
                for name in SCRIPTED if service == "sagemaker" else ():
                    made.meta.events.register(
                        f"before-call.sagemaker.{name}", lambda **call: (Answered(), script.answer(**call))
                    )
                return made

            monkeypatch.setattr(boto3, "client", client)
            return script

        yield play


class Answered:
    """An HTTP response that botocore takes for a good one."""

    status_code = 200


@pytest.fixture
def dag():
    environment = Environment(
        image_registry="123456789012.dkr.ecr.us-east-1.amazonaws.com/toys", image_tag="1", sagemaker=ACCOUNT
    )
    settings = Settings(name="toys", tier=Tier.GOLD, environment=environment, layers=(environment,))
    return compile_definition("toys", define, Composer(settings, spec_of, ("python", "-m", "toy_stage")))


@pytest.fixture
def engine():
    return SageMakerEngine(account=ACCOUNT, on_report=lambda *_: None, poll_seconds=0)


def deploy(dag):
    pipeline = compile_sagemaker(dag)
    boto3.client("sagemaker", region_name="us-east-1").create_pipeline(
        PipelineName=pipeline.name,
        PipelineDefinition=pipeline.definition_text(),
        RoleArn=ACCOUNT.role_arn,
        ClientRequestToken="x" * 32,
    )


def step(name, status, job=None, **more):
    found = {"StepName": name, "StepStatus": status, "StartTime": BEGAN, **more}
    if status in ("Succeeded", "Failed"):
        found["EndTime"] = BEGAN + timedelta(seconds=90)
    return {**found, "Metadata": {"ProcessingJob": {"Arn": f"{JOBS}:processing-job/{job}"}}} if job else found


def leave_report(tmp_path, job, report):
    """A processing job on moto, and the report that it left on S3."""
    folder = tmp_path / "left" / job
    write_text(folder / "report.json", report.model_dump_json())
    seal(folder, ArtifactKind.REPORT)
    s3 = boto3.client("s3", region_name="us-east-1")
    for path in folder.iterdir():
        s3.upload_file(str(path), ACCOUNT.bucket, f"runs/{job}/report/{path.name}")
    uri = f"s3://{ACCOUNT.bucket}/runs/{job}/report"
    boto3.client("sagemaker", region_name="us-east-1").create_processing_job(
        ProcessingJobName=job,
        ProcessingResources={
            "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.xlarge", "VolumeSizeInGB": 1}
        },
        AppSpecification={"ImageUri": "i"},
        RoleArn=ACCOUNT.role_arn,
        ProcessingOutputConfig={
            "Outputs": [
                {
                    "OutputName": "report",
                    "S3Output": {
                        "S3Uri": uri,
                        "LocalPath": "/opt/ml/processing/output/report",
                        "S3UploadMode": "EndOfJob",
                    },
                }
            ]
        },
    )


def test_an_execution_is_followed_to_its_end_and_its_reports_come_back(aws, dag, engine, tmp_path):
    grown, judged, enrolled = (step(name, "Succeeded", name) for name in ("grow", "judge", "enroll-toy"))
    cached = {**grown, "CacheHitResult": {"SourcePipelineExecutionArn": "arn"}}
    script = aws(
        Script(
            ("Executing", [step("grow", "Executing", "grow")]),
            ("Executing", [cached, step("judge", "Executing", "judge")]),
            ("Succeeded", [cached, judged, step("report-judge", "Succeeded"), enrolled]),
        )
    )
    deploy(dag)
    for job in ("grow", "judge", "enroll-toy"):
        leave_report(tmp_path, job, Report(stage=job, summary="", details={"outcome": "registered"}))
    folder, seen, reported = toy_folder(tmp_path, "one"), [], []
    folder.on_change = lambda name, task: seen.append((name, str(task.status)))
    engine = SageMakerEngine(account=ACCOUNT, on_report=lambda *call: reported.append(call[0]), poll_seconds=0)
    assert engine.run(dag, {"seed": 3}, folder) == Outcome.REGISTERED
    tasks = folder.state.tasks
    assert [str(tasks[name].status) for name in tasks] == ["cached", "done", "done"]
    assert tasks["judge"].seconds == 90
    assert ("grow", "running") in seen
    assert reported == ["grow", "judge", "enroll_toy"]
    assert (folder.artifact("judge", "report") / "report.json").is_file()
    assert len(script.made("ListPipelineExecutionSteps")) == 3


def test_a_shut_gate_is_a_success(aws, dag, engine, tmp_path):
    aws(Script(("Succeeded", [step("grow", "Succeeded"), step("judge", "Succeeded")])))
    deploy(dag)
    folder = toy_folder(tmp_path, "one")
    assert engine.run(dag, {"seed": 3}, folder) == Outcome.REFUSED
    assert folder.state.tasks["enroll_toy"].status == TaskStatus.SKIPPED


def test_a_failure_names_step_and_reason_and_a_second_run_retries_it_once(aws, dag, engine, tmp_path):
    reason = "AlgorithmError: grow.fail is True:\n set it to false, exit code: 1"
    failed = ("Failed", [step("grow", "Failed", FailureReason=reason)])
    script = aws(Script(failed))
    deploy(dag)
    folder = toy_folder(tmp_path, "one")
    assert engine.run(dag, {"seed": 3}, folder) == Outcome.FAILED
    assert folder.state.tasks["grow"].error == "AlgorithmError: grow.fail is True: set it to false, exit code: 1"
    for _ in range(2):
        engine.run(dag, {"seed": 3}, folder)
    retries = script.made("RetryPipelineExecution")
    assert len(retries) == 2
    assert retries[0]["ClientRequestToken"] == retries[1]["ClientRequestToken"]
    assert retries[0]["PipelineExecutionArn"] == folder.state.execution


def test_a_failed_report_reader_is_its_stages_failure(aws, dag, engine, tmp_path):
    steps = [
        step("grow", "Succeeded"),
        step("judge", "Succeeded"),
        step("report-judge", "Failed", FailureReason="lost"),
    ]
    aws(Script(("Failed", steps)))
    deploy(dag)
    folder = toy_folder(tmp_path, "one")
    assert engine.run(dag, {"seed": 3}, folder) == Outcome.FAILED
    assert (folder.state.tasks["judge"].status, folder.state.tasks["judge"].error) == (TaskStatus.FAILED, "lost")


def test_stop_asks_once(aws, dag, engine, tmp_path):
    script = aws(Script(("Executing", [])))
    deploy(dag)
    folder = toy_folder(tmp_path, "one")
    engine.start(dag, {"seed": 3}, folder)
    engine.stop(folder)
    engine.stop(folder)
    tokens = {body["ClientRequestToken"] for body in script.made("StopPipelineExecution")}
    assert len(tokens) == 1
    assert 32 <= len(tokens.pop()) <= 128


def test_logs_come_from_the_jobs_stream(aws, engine, tmp_path, dag):
    aws(Script(("Executing", [step("grow", "Executing", "job-1")])))
    deploy(dag)
    logs = boto3.client("logs", region_name="us-east-1")
    logs.create_log_group(logGroupName="/aws/sagemaker/ProcessingJobs")
    for stream, line in (("job-1/algo-1-1", "mine"), ("job-10/algo-1-1", "another's")):
        logs.create_log_stream(logGroupName="/aws/sagemaker/ProcessingJobs", logStreamName=stream)
        logs.put_log_events(
            logGroupName="/aws/sagemaker/ProcessingJobs",
            logStreamName=stream,
            logEvents=[{"timestamp": int(datetime.now(UTC).timestamp() * 1000), "message": line}],
        )
    folder = toy_folder(tmp_path, "one")
    folder.change(tasks=fresh_tasks(dag))
    engine.start(dag, {"seed": 3}, folder)
    engine.refresh(dag, folder)
    assert list(engine.logs(folder, "grow")) == ["mine"]
    assert list(engine.logs(folder, "judge")) == []


def test_what_is_not_deployed_or_differs_is_refused(aws, dag, engine, tmp_path):
    aws(Script(("Executing", [])))
    folder = toy_folder(tmp_path, "one")
    with pytest.raises(UsageError, match="srl-rlvr-toys-gold is not deployed: deploy what `srl-rlvr compile"):
        engine.start(dag, {"seed": 3}, folder)
    deploy(dag)
    changed = Settings(
        name="toys",
        tier=Tier.GOLD,
        environment=dag.settings.environment.model_copy(update={"image_tag": "2"}),
        layers=dag.settings.layers,
    )
    other = compile_definition("toys", define, Composer(changed, spec_of, ("python", "-m", "toy_stage")))
    with pytest.raises(UsageError, match="as deployed is not the one that is compiled here"):
        engine.start(other, {"seed": 3}, folder)
    assert folder.state.execution is None


def test_the_token_is_of_the_night_and_the_attempt():
    one = request_token("p", {"model_type": "npc", "night": "2026-11-24"}, "run-1", 1)
    assert request_token("p", {"model_type": "npc", "night": "2026-11-24"}, "run-2", 1) == one
    assert request_token("p", {"model_type": "npc", "night": "2026-11-24"}, "run-1", 2) != one
    assert request_token("p", {"model_type": "npc", "night": "2026-11-25"}, "run-1", 1) != one
    assert request_token("p", {"night": "adhoc"}, "run-1", 1) != request_token("p", {"night": "adhoc"}, "run-2", 1)
    assert 32 <= len(one) <= 128


def test_the_placeholder_account_starts_nothing():
    with pytest.raises(UsageError, match="put yours into configs/environments/dev"):
        real_account(load_settings("dev", Tier.GOLD))


class Registry:
    """A registry in which nothing, or one version, serves."""

    def __init__(self, *versions):
        self._versions = versions

    def versions(self, model_type, tier):
        return list(self._versions)


class Version:
    aliases, source = ("champion",), "s3://store/1/policy"


def test_an_execution_starts_from_named_places_the_environments_and_the_champion():
    dag = compile_dag("post_training", load_settings("prod", Tier.GOLD))
    nothing_serves = remote_inputs(dag, Registry())
    assert nothing_serves == {
        "base_uri": "s3://srl-rlvr-prod/policies/gold/",
        "champion_uri": nothing_serves["base_uri"],
    }
    assert remote_inputs(dag, Registry(Version()))["champion_uri"] == "s3://store/1/policy/"
    named = compile_dag("post_training", load_settings("prod", Tier.GOLD, ["champion_uri=s3://b/v1"]))
    assert remote_inputs(named, Registry(Version()))["champion_uri"] == "s3://b/v1/"
    local = compile_dag("post_training", load_settings("prod", Tier.GOLD, ["champion_uri=models/x"]))
    with pytest.raises(UsageError, match="champion_uri = 'models/x' is not on S3"):
        remote_inputs(local, Registry())
    with pytest.raises(UsageError, match="distillation needs traces_uri"):
        remote_inputs(compile_dag("distillation", load_settings("prod", Tier.GOLD)), Registry(Version()))


def test_a_job_registers_in_the_tracking_store_and_leaves_the_package_to_the_night(tmp_path):
    dag = compile_dag("post_training", load_settings("prod", Tier.GOLD))
    definition = compile_sagemaker(dag).definition_text()
    assert TRACKING_URI in definition and REGISTRY not in definition
    environment = dag.settings.environment
    state = toy_folder(tmp_path, "one").state.model_copy(update={"engine": "sagemaker"})
    assert isinstance(registry_of_stages(environment, state), ModelRegistry)
    assert isinstance(registry_of(environment, state.tracking_uri), SageMakerRegistry)
