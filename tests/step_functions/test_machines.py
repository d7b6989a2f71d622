"""The machines as committed: built from their sources, accepted by moto, calling AWS rightly, within AWS's limits."""

import copy
import json
import re
import subprocess
import sys

import pytest
from asl_interpreter import evaluate
from aws_account import BINDINGS, MACHINES, TIERS, aws_account
from aws_calls import lint, states
from fault_scripts import MODEL, NIGHT
from pipeline_runs import Course

FILES = sorted(MACHINES.glob("*.asl.json"))
MAX_EVENTS = 25_000
"""Events that the history of one execution may hold."""
MAX_DEFINITION = 1_048_576


@pytest.fixture(params=FILES, ids=lambda file: file.name)
def machine(request):
    return json.loads(request.param.read_text(encoding="utf-8"))


def test_what_is_committed_is_what_the_sources_say(tmp_path):
    builder = f"import sys; sys.path.insert(0, {str(MACHINES)!r}); import build, json; print(json.dumps(build.build()))"
    done = subprocess.run([sys.executable, "-c", builder], capture_output=True, text=True, check=True)
    built = json.loads(done.stdout)
    assert built == {file.name: file.read_text(encoding="utf-8") for file in FILES}, (
        "run python step_functions/build.py"
    )
    assert all(len(text) < MAX_DEFINITION for text in built.values())


def test_every_call_fits_the_service_that_it_is_made_to(machine):
    assert lint(machine) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda s: s["Start"].update(Resource="arn:aws:states:::aws-sdk:sagemaker:startPipelin"),
            "has no startPipelin",
        ),
        (lambda s: s["Start"].update(Resource="arn:aws:states:::sagemaker:startPipelineExecution"), "no optimised"),
        (lambda s: s["Start"]["Arguments"].pop("PipelineName"), "PipelineName is missing"),
        (lambda s: s["Start"]["Arguments"].update(Pipeline="x"), "Pipeline is not known"),
        (lambda s: s["Promote"]["Arguments"].update(ModelApprovalStatus="approved"), "'approved' is none of"),
        (lambda s: s["Start"]["Arguments"].update(ClientRequestToken="short"), "has 5 characters"),
        (lambda s: s["Steps"]["Arguments"].update(MaxResults="100"), "'100' is no integer"),
        (lambda s: s["Package"]["Arguments"].update(ClientToken="a b"), "does not match"),
    ],
)
def test_the_lint_finds_what_is_planted(change, said):
    machine = json.loads((MACHINES / "training_run.asl.json").read_text(encoding="utf-8"))
    planted = copy.deepcopy(machine)
    change(dict(states(planted)))
    assert any(said in fault for fault in lint(planted)), lint(planted)


def test_one_query_language_and_no_secret(machine):
    assert machine["QueryLanguage"] == "JSONata"
    text = json.dumps(machine)
    assert not re.search(r'"(\w+\.\$|ResultPath|InputPath|OutputPath|Parameters)":', text)
    assert not re.search(r"AKIA|secret|password|api[_-]?key", text, re.I)


def test_every_expression_parses(machine):
    import jsonata

    def expressions(value):
        if isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                yield from expressions(item)
        elif isinstance(value, str) and value.startswith("{%"):
            yield re.sub(r"\$\{(\w+)\}", lambda found: BINDINGS[found[1]], value)[2:-2]

    found = list(expressions(machine))
    assert len(found) > 20
    for expression in found:
        jsonata.Jsonata(expression)


def test_every_placeholder_is_one_that_terraform_fills(machine):
    assert set(re.findall(r"\$\{(\w+)\}", json.dumps(machine))) <= BINDINGS.keys()
    assert "%{" not in json.dumps(machine), "Terraform would read a directive"


def test_every_task_is_tried_again_and_no_failure_is_left_to_chance(machine):
    """Every call has a retry, and every task outside a guarded branch a way on, unless its own failure is the alert."""
    for name, state in states(machine):
        if state["Type"] == "Task":
            assert state["Retry"], name
    last_words = {"Report by the other way", "Alert"}
    for name, state in machine["States"].items():
        if state["Type"] in ("Task", "Parallel") and name not in last_words:
            assert "States.ALL" in json.dumps(state.get("Catch", [])), name


def test_every_wait_between_polls_is_two_to_five_minutes():
    text = (MACHINES / "training_run.asl.json").read_text(encoding="utf-8")
    polls = [int(seconds) for seconds in re.findall(r"'poll_s': (\d+)", text)]
    assert len(polls) == len(TIERS)
    assert all(120 <= seconds <= 300 for seconds in polls)


def test_retries_are_recognised_by_what_aws_says():
    machine = json.loads((MACHINES / "training_run.asl.json").read_text(encoding="utf-8"))
    choices = dict(states(machine))["How did it end?"]["Choices"]
    (retry,) = (choice["Condition"][2:-2] for choice in choices if choice["Next"] == "Wait before the retry")

    def retried(reason, tries=1):
        return evaluate(retry, {"flight": {"tries": tries}, "why": "", "broken": {"FailureReason": reason}})

    for reason in (
        "CapacityError: Unable to provision requested ML compute capacity.",
        "ClientError: insufficient capacity error",
        "ResourceLimitExceeded: The account-level service limit is 0 Instances",
        "MaxWaitTimeExceeded",
        "InternalServerError: We encountered an internal error. Please try again.",
        "ThrottlingException: Rate exceeded",
    ):
        assert retried(reason), reason
        assert not retried(reason, tries=3)
    for reason in (
        "AlgorithmError: ValueError: reward is nan",
        "ClientError: no object under s3://b/x",
        "out of memory",
    ):
        assert not retried(reason), reason


@pytest.mark.slow
def test_the_history_of_the_longest_run_has_room():
    """Events of a poll, measured, by the polls that a tier is given."""
    given = {
        "night": NIGHT,
        "attempt": 1,
        "dag": "post_training",
        "model_type": MODEL,
        "tier": "bronze",
        "alone": False,
    }
    lengths = []
    for polls in (2, 12):
        with aws_account() as account:
            account.pipelines.courses["post_training-bronze", MODEL] = [Course(polls=polls)]
            execution = account.start("training-run", given, "run")
            account.end(execution)
            pages = account.client("stepfunctions").get_paginator("get_execution_history")
            lengths.append(sum(len(page["events"]) for page in pages.paginate(executionArn=execution)))
    a_poll = (lengths[1] - lengths[0]) / 10
    text = (MACHINES / "training_run.asl.json").read_text(encoding="utf-8")
    limits = [int(polls) for polls in re.findall(r"'polls': (\d+)", text)]
    assert len(limits) == len(TIERS)
    bronze, *on_spot = limits
    longest = max(bronze, *(polls + polls * 2 // 3 for polls in on_spot))
    assert lengths[0] + a_poll * longest < MAX_EVENTS, f"{a_poll} events a poll, {longest} polls"


@pytest.mark.slow
def test_the_cost_of_a_run_is_published_at_each_poll_by_tier_and_by_model_type():
    given = {"night": NIGHT, "attempt": 1, "dag": "post_training", "model_type": MODEL, "tier": "gold", "alone": False}
    with aws_account() as account:
        account.pipelines.courses["post_training-gold", MODEL] = [Course(polls=9)]
        account.end(account.start("training-run", given, "run"))
        costs = [metric for metric in account.metrics if metric["MetricName"] == "EstimatedJobCostUSD"]
    by_dimensions = {}
    for metric in costs:
        key = tuple((dimension["Name"], dimension["Value"]) for dimension in metric["Dimensions"])
        by_dimensions.setdefault(key, []).append(metric["Value"])
    # Ten polls of three minutes at 5.75 USD an hour.
    expected = pytest.approx(10 * 180 / 3600 * 5.75)
    assert {key: sum(values) for key, values in by_dimensions.items()} == {
        (("Tier", "gold"),): expected,
        (("Tier", "gold"), ("ModelType", MODEL)): expected,
    }
