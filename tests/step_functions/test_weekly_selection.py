"""The weekly refresh of the model selection, executed on a definition with one step."""

import json

import pytest
from aws_account import Fault, aws_account
from pipeline_runs import Course

pytestmark = pytest.mark.slow

WEEK = "2026-01-05"
GIVEN = {"scheduled": f"{WEEK}T06:00:00Z"}
DEFINITION = {"Parameters": [{"Name": "night", "Type": "String"}], "Steps": []}


@pytest.fixture
def account():
    with aws_account() as made:
        made.pipelines.definitions["selection"] = DEFINITION
        yield made


def run(account, name="week"):
    return account.end(account.start("weekly-selection", GIVEN, name))


def ends(account):
    return [(message.topic, message.subject.rpartition(": ")[2]) for message in account.messages]


def test_a_refresh_says_what_is_proposed(account):
    assert json.loads(run(account)["output"])["outcome"] == "proposed"
    assert ends(account) == [("reports", "proposed")]


def test_a_second_start_of_the_week_ends_at_once(account):
    account.script["sagemaker:start_pipeline_execution"] = [Fault(done=True), Fault()]
    run(account)
    assert json.loads(run(account, "again")["output"])["outcome"] == "duplicate"
    assert (len(account.pipelines.executions), ends(account)) == (1, [("reports", "proposed")])


def test_a_refresh_that_is_run_again_from_its_start_does_nothing_more(account):
    account.forget(run(account)["executionArn"])
    run(account)
    assert (len(account.pipelines.executions), len(account.messages)) == (1, 1)


@pytest.mark.parametrize("end", ["Failed", "Stopped", "Executing"])
def test_a_refresh_that_fails_or_hangs_says_so_once(account, end):
    account.pipelines.courses["selection", ""] = [Course(end=end)]
    assert run(account)["error"] == "SelectionFailed"
    assert ends(account) == [("reports", "failed")]


def test_a_pipeline_that_is_not_deployed_is_reported(account):
    account.pipelines.missing.add("selection")
    assert "does not exist" in run(account)["cause"]
    assert ends(account) == [("reports", "failed")]


def test_a_report_that_is_not_taken_goes_the_other_way(account):
    account.script["sns:publish"] = [Fault(status=500)] * 7
    assert run(account)["error"] == "ReportUndelivered"
    assert ends(account) == [("alerts", "proposed")]
