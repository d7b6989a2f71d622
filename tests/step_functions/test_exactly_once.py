"""One night is one execution, one package and one change of champion, however often and from wherever it is started."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from aws_account import TIERS, AwsAccount, Fault, aws_account
from fault_scripts import MODEL, NIGHT
from pipeline_runs import Course

pytestmark = pytest.mark.slow

MONDAY = "2026-01-05"


@pytest.fixture
def account():
    with aws_account() as made:
        for tier in TIERS:
            made.add_version(tier)
        yield made


def counts(account: AwsAccount) -> tuple[int, int, int, int]:
    """Executions, packages, changes of a champion, reports."""
    reports = [message for message in account.messages if message.topic == "reports"]
    return len(account.pipelines.executions), len(account.packages), len(account.flips), len(reports)


def test_twenty_starts_at_once_make_one_night(account):
    given = {"scheduled": f"{NIGHT}T01:00:00Z"}
    with ThreadPoolExecutor(20) as pool:
        started = list(pool.map(lambda number: account.start("nightly", given, f"start-{number}"), range(20)))
    ends = [json.loads(account.end(execution)["output"])["outcome"] for execution in started]
    assert sorted(ends) == ["duplicate"] * 19 + ["registered"]
    assert counts(account) == (5, 4, 4, 1)


def test_a_night_that_is_run_again_from_its_start_does_nothing_more(account):
    account.forget(account.night(NIGHT)["executionArn"])
    before = counts(account)
    assert json.loads(account.night(NIGHT)["output"])["outcome"] == "reported"
    assert counts(account) == before == (5, 4, 4, 1)


@pytest.mark.parametrize(
    "broken", ["sagemaker:create_model_package", "sagemaker:describe_processing_job", "s3:delete_object"]
)
def test_a_run_that_is_redriven_after_any_fault_ends_the_same_run(account, broken):
    given = {"night": NIGHT, "attempt": 1, "dag": "post_training", "model_type": MODEL, "tier": "gold", "alone": False}
    account.script[broken] = [Fault(status=500)] * 7
    first = account.start("training-run", given, "run")
    account.end(first)
    account.forget(first)
    again = json.loads(account.end(account.start("training-run", given, "run"))["output"])
    assert again["outcome"] in ("registered", "failed")
    assert counts(account)[:3] in ((1, 1, 1), (1, 0, 0))
    assert len(account.pipelines.executions) == 1


def test_a_second_attempt_of_a_failed_night_runs_again_what_failed_and_keeps_what_did_not(account):
    failed = Course(end="Failed", reason="ValueError: bad data")
    account.pipelines.courses["post_training-gold", MODEL] = [failed]
    assert account.night(NIGHT)["status"] == "FAILED"
    assert account.night(NIGHT, name="again", attempt=2)["status"] == "SUCCEEDED"
    tokens = [execution.arn for execution in account.pipelines.executions]
    assert len(tokens) == 10
    assert [message.subject.rpartition(": ")[2] for message in account.messages] == ["failed", "registered"]


def test_bronze_is_due_on_mondays_and_reports_its_own_end(account):
    account.night(MONDAY)
    subjects = sorted(message.subject for message in account.messages)
    assert subjects == [f"srl-rlvr-prod {MONDAY} {MODEL} bronze: registered", f"srl-rlvr-prod {MONDAY}: registered"]
    assert [execution.pipeline for execution in account.pipelines.executions].count("post_training-bronze") == 1
    account.night(NIGHT)
    assert [execution.pipeline for execution in account.pipelines.executions].count("post_training-bronze") == 1


def test_a_bronze_that_fails_says_so_and_leaves_the_nights_its_last_version(account):
    before = account.champion("bronze")
    account.pipelines.courses["post_training-bronze", MODEL] = [Course(end="Failed", reason="CUDA out of memory")]
    account.night(MONDAY)
    account.night(NIGHT)
    subjects = [message.subject for message in account.messages if message.topic == "reports"]
    assert f"srl-rlvr-prod {MONDAY} {MODEL} bronze: failed" in subjects
    assert f"srl-rlvr-prod {NIGHT}: stale" in subjects
    assert account.champion("bronze") == before
    (silver,) = (
        request for request in account.packages.values()
        if "-silver" in request["ModelPackageGroupName"]
        and request["CustomerMetadataProperties"].get("teacher_stale") == "true"
        and request["CustomerMetadataProperties"]["night"] == NIGHT
    )  # fmt: skip
    assert silver["CustomerMetadataProperties"]["teacher"] == before
    assert (
        "stale teacher: bronze failed on 2026-01-05"
        in json.loads(silver["ModelCard"]["ModelCardContent"])["additional_information"]["caveats_and_recommendations"]
    )


def test_a_request_adds_bronze_to_a_night_once(account):
    account.put_record(f"requests/{MODEL}/bronze/weakness-2026-01-05", {})
    account.night(NIGHT)
    assert [execution.pipeline for execution in account.pipelines.executions].count("post_training-bronze") == 1
    assert account.records("requests/") == []


def test_a_request_adds_a_model_type_to_a_night():
    with aws_account(model_types="npc_dialogue,reasoning") as account:
        account.put_record("requests/reasoning/bronze/rules-v7", {})
        account.night(NIGHT, model_types=[MODEL])
        trained = {(e.pipeline, e.parameters["model_type"]) for e in account.pipelines.executions}
    assert ("post_training-bronze", "reasoning") in trained
    assert ("post_training-bronze", MODEL) not in trained
    assert ("post_training-gold", "reasoning") in trained


def test_a_tier_in_flight_is_left_alone(account):
    """Two nights started by hand: the second finds the first's run, whose owner lives."""
    given = {"night": NIGHT, "attempt": 1, "dag": "post_training", "model_type": MODEL, "tier": "gold", "alone": False}
    second = []

    def meanwhile():
        other = given | {"attempt": 2}
        second.append(account.start("training-run", other, "second"))

    account.pipelines.courses["post_training-gold", MODEL] = [Course(polls=60, meanwhile=meanwhile)]
    first = account.start("training-run", given, "first")
    account.end(first)
    busy = json.loads(account.end(second[0])["output"])
    assert (busy["outcome"], busy["detail"]) == ("skipped", f"post_training of {NIGHT} is still running")
    assert counts(account)[:3] == (1, 1, 1)


def test_a_run_that_nobody_can_finish_gives_the_tier_free_after_three_nights(account):
    account.pipelines.courses["post_training-gold", MODEL] = [Course(report=False)]
    given = {"attempt": 1, "dag": "post_training", "model_type": MODEL, "tier": "gold", "alone": False}
    ends = []
    for day in range(6, 11):
        run = account.start("training-run", given | {"night": f"2026-01-{day:02d}"}, f"run-{day}")
        ends.append(json.loads(account.end(run)["output"]))
    assert [end["outcome"] for end in ends] == ["failed"] * 5
    assert ends[4]["detail"].startswith("given up after 3 nights")
    assert account.records(f"state/{MODEL}/flights/") == []
