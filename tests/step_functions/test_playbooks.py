"""Every page of docs/recovery: its failure is injected, and its commands, followed in their order, put things right."""

import json
import re

import pytest
from aws_account import NUMBER, REGION, TIERS, aws_account
from fault_scripts import CAPACITY, CODE, DOWN, LOST, MODEL, NIGHT, approved_by_hand
from pipeline_runs import COLLECTION, Course
from playbook import FOLDER, commands, follow

pytestmark = pytest.mark.slow

PAGES = sorted(page.name for page in FOLDER.glob("*.md") if page.name != "README.md")
VARIABLES = {
    "NAME": "srl-rlvr-prod",
    "BUCKET": "srl-rlvr-prod",
    "NIGHT": NIGHT,
    "MODEL_TYPE": MODEL,
    "TIER": "gold",
    "GROUP": "srl-rlvr-prod-npc-dialogue-gold",
    "MACHINE": f"arn:aws:states:{REGION}:{NUMBER}:stateMachine:srl-rlvr-prod-nightly",
    "REPORTS_TOPIC": f"arn:aws:sns:{REGION}:{NUMBER}:srl-rlvr-prod-reports",
    "TOKEN": "by-hand-0123456789-0123456789-0123456789",
}
FOLLOWED = set()


PATIENT = pytest.mark.parametrize("account", [None], indirect=True)
"""With all the polls that a machine is given: a run that is to be aborted must not be stopped as stuck before."""


@pytest.fixture
def account(request):
    with aws_account(polls=getattr(request, "param", 4)) as made:
        for tier in TIERS:
            made.add_version(tier)
        yield made


def steps(account, page, **variables):
    """The answers to a page's commands; an execution that one of them starts is waited for."""
    FOLLOWED.add(page)
    for command in commands(page):
        answer = follow(account, command, VARIABLES | variables)
        if "executionArn" in answer:
            answer = account.end(answer["executionArn"])
        yield answer


def subjects(account):
    return [message.subject.rpartition(": ")[2] for message in account.messages if message.topic == "reports"]


def test_the_index_leads_to_every_page():
    linked = set(re.findall(r"\]\((\S+\.md)\)", (FOLDER / "README.md").read_text(encoding="utf-8")))
    assert linked == set(PAGES)


def test_night_not_started(account):
    found = steps_until_missing(account, "night-not-started.md")
    assert found["executions"] == []
    start = [line for line in commands("night-not-started.md") if "start-execution" in line]
    (command,) = start
    ended = account.end(follow(account, command, VARIABLES)["executionArn"])
    assert (ended["status"], subjects(account)) == ("SUCCEEDED", ["registered"])
    again = account.end(follow(account, command.replace("by-hand", "again"), VARIABLES)["executionArn"])
    assert json.loads(again["output"])["outcome"] == "duplicate"


def steps_until_missing(account, page):
    """The first answer; the second command finds no report, as the page expects."""
    FOLLOWED.add(page)
    first, second = commands(page)[:2]
    answer = follow(account, first, VARIABLES)
    with pytest.raises(account.client("s3").exceptions.NoSuchKey):
        follow(account, second, VARIABLES)
    return answer


@PATIENT
def test_night_aborted(account):
    """Both nights' runs lost their executions; the second attempt takes them over and starts none of them again."""
    FOLLOWED.add("night-aborted.md")
    account.pipelines.courses["post_training-gold", MODEL] = [Course(polls=10_000)]
    account.pipelines.courses["post_training-silver", MODEL] = [Course(polls=10_000)]
    execution = account.start("nightly", {"scheduled": f"{NIGHT}T01:00:00Z"}, "aborted")
    account.abort_when_flying(execution)
    for run in account.pipelines.executions:
        run.attempts[-1] = Course()
    redrive, start = commands("night-aborted.md")
    assert redrive.startswith("aws stepfunctions redrive-execution --execution-arn")
    ended = account.end(follow(account, start, VARIABLES)["executionArn"])
    assert (ended["status"], subjects(account)) == ("SUCCEEDED", ["registered"])
    assert [run.pipeline for run in account.pipelines.executions].count("post_training-gold") == 1


@pytest.mark.parametrize(
    ("page", "course", "tries"), [("training-failed.md", CODE, 1), ("no-capacity.md", CAPACITY, 3)]
)
def test_a_failed_stage(account, page, course, tries):
    for pipeline in ("post_training-gold", "post_training-gold-on-demand"):
        account.pipelines.courses[pipeline, MODEL] = [course] * tries
    account.night(NIGHT)
    *_, failed = (run for run in account.pipelines.executions if run.status == "Failed")
    account.pipelines.courses.clear()
    *looked, ended = steps(account, page, PIPELINE_EXECUTION=failed.arn)
    assert course.reason in json.dumps(looked)
    assert (ended["status"], subjects(account)) == ("SUCCEEDED", ["failed", "registered"])


def test_run_stuck(account):
    account.pipelines.courses["post_training-gold", MODEL] = [Course(end="Executing", heeds_stop=False)]
    account.night(NIGHT)
    assert account.records(f"state/{MODEL}/flights/") == [f"state/{MODEL}/flights/gold.json"]
    (stuck,) = (run for run in account.pipelines.executions if run.status == "Executing")
    list(steps(account, "run-stuck.md", PIPELINE_EXECUTION=stuck.arn))
    assert account.records(f"state/{MODEL}/flights/") == []
    assert account.night(NIGHT, name="again", attempt=2)["status"] == "SUCCEEDED"


def test_registration_failed(account):
    course = Course(end="Failed", fails_at="register-gold", reason="MLflow store: 500")
    account.pipelines.courses["distillation-gold", MODEL] = [course]
    account.night(NIGHT)
    record, ended = steps(account, "registration-failed.md")
    assert "register-gold: MLflow store: 500" in record["detail"]
    assert (ended["status"], subjects(account)) == ("SUCCEEDED", ["failed", "registered"])


def test_promotion_failed(account):
    for name in ("post_training-silver", "post_training-gold", "distillation-silver"):
        account.pipelines.courses[name, MODEL] = [Course(accepted=False)]
    account.script["sagemaker:update_model_package"] = [LOST] * 7 + [DOWN] * 7
    before = account.champion("gold")
    account.night(NIGHT)
    (package,) = account.packages
    assert account.champion("gold") == package, "the answer was lost, and so was the roll-back"
    champions = []
    for answer in steps(account, "promotion-failed.md", PACKAGE=package):
        listed = answer.get("ModelPackageSummaryList", [{}])[0].get("ModelPackageArn")
        champions.append((listed, account.champion("gold")))
    assert champions == [(package, package), (None, before), (None, package)]


def test_champion_changed(account):
    approved_by_hand(account)
    account.night(NIGHT)
    (waiting,) = account.record(f"{NIGHT}/1/report.json")["waiting"]
    described, _ = steps(account, "champion-changed.md", PACKAGE=waiting)
    assert described["ModelApprovalStatus"] == "PendingManualApproval"
    assert account.flips[-1] == (waiting, "Rejected")


def test_bronze_failed(account):
    account.pipelines.courses["post_training-bronze", MODEL] = [CODE]
    account.night("2026-01-05")
    record, _ = steps(account, "bronze-failed.md")
    assert CODE.reason in record["detail"]
    account.night(NIGHT)
    account.night("2026-01-07")
    assert [run.pipeline for run in account.pipelines.executions].count("post_training-bronze") == 2
    assert account.record("2026-01-07/1/report.json")["outcome"] == "registered", "no stale teacher any more"


def test_traces_spoilt(account):
    account.pipelines.courses[COLLECTION, MODEL] = [Course(served=False)] * 2
    for name in ("post_training-silver", "post_training-gold"):
        account.pipelines.courses[name, MODEL] = [Course(accepted=False, traces=False)]
    assert account.night(NIGHT)["status"] == "FAILED"
    traces, _ = steps(account, "traces-spoilt.md")
    assert traces["night"] == NIGHT
    assert account.records(f"state/{MODEL}/traces.json") == []
    assert account.night("2026-01-07")["status"] == "SUCCEEDED"


def test_report_undelivered(account):
    account.script["sns:publish"] = [DOWN] * 7
    assert account.night(NIGHT)["error"] == "ReportUndelivered"
    list(steps(account, "report-undelivered.md"))
    assert account.messages[-1].subject == "test"


@PATIENT
def test_cost_high(account):
    """The machines that watch over a run are gone, and its execution goes on."""
    account.pipelines.courses["post_training-gold", MODEL] = [Course(polls=10_000)]
    account.pipelines.courses["post_training-silver", MODEL] = [Course(polls=10_000)]
    account.abort_when_flying(account.start("nightly", {"scheduled": f"{NIGHT}T01:00:00Z"}, "dear"))
    (dear,) = (run for run in account.pipelines.executions if run.pipeline == "post_training-gold")
    flight, described, _ = steps(account, "cost-high.md", PIPELINE_EXECUTION=dear.arn)
    assert flight["execution"] == dear.arn
    assert (described["PipelineExecutionStatus"], dear.status) == ("Executing", "Stopped")


def test_collection_failed(account):
    account.pipelines.courses[COLLECTION, MODEL] = [Course(end="Failed", fails_at="trace-collection", reason="exit 1")]
    account.night(NIGHT)
    failed = account.pipelines.executions[0]
    record, listed, ended = steps(account, "collection-failed.md", PIPELINE_EXECUTION=failed.arn)
    assert (record["outcome"], record["execution"]) == ("failed", failed.arn)
    assert listed["PipelineExecutionSteps"][0]["FailureReason"] == "exit 1"
    assert (ended["status"], subjects(account)) == ("SUCCEEDED", ["stale", "registered"])
    assert account.record(f"state/{MODEL}/traces.json")["stage"] == "trace_collection"


def test_model_drifted(account):
    """A Bronze is not due on a Tuesday; what players ask now makes it so."""
    account.pipelines.courses[COLLECTION, MODEL] = [Course(drift=0.4)]
    account.night(NIGHT)
    said, _ = steps(account, "model-drifted.md", TIER="bronze")
    assert [tier["verdict"] for tier in said["tiers"]] == ["none", "none", "block"]
    account.night("2026-01-07")
    assert "post_training-bronze" in [run.pipeline for run in account.pipelines.executions]


def test_serving_degraded(account):
    before = account.champion("gold")
    account.add_version("gold")
    worse = account.champion("gold")
    listed, _ = steps(account, "serving-degraded.md", PACKAGE=worse)
    assert listed["ModelPackageSummaryList"][0]["ModelPackageArn"] == worse != before
    assert account.champion("gold") == before


def test_every_page_was_followed():
    """Runs last in this file."""
    if len(FOLLOWED) > 1:
        assert set(PAGES) == FOLLOWED
