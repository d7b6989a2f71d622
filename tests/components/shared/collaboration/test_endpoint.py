import asyncio
import json
import random
import threading
import time
from email.utils import formatdate

import boto3
import moto
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.shared.collaboration.budget import Bill, Budget, BudgetExhausted, Cost
from components.shared.collaboration.context_retriever import ContextRetriever
from components.shared.collaboration.endpoint import Endpoint, _retry_after
from components.shared.collaboration.orchestrator import OUTAGE, Orchestrator
from components.shared.collaboration.planner import FixedPlanner, Plan
from components.shared.collaboration.request_cache import RequestCache
from components.shared.collaboration.teacher_config import BudgetConfig, TeacherConfig
from components.shared.collaboration.teacher_key import teacher_key
from components.shared.collaboration.teacher_planner import OpenAITeacher, OutOfReach, UnreadableAnswer
from components.shared.collaboration.verifier import Verifier
from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.contracts.records import Split, Trajectory, Unanswered

MESSAGES = [{"role": "system", "content": "add"}, {"role": "user", "content": "1 and 2"}]
PRICES = {"usd_per_million_prompt_tokens": 1e4, "usd_per_million_completion_tokens": 1e5}


def config(url, **changes):
    return TeacherConfig(
        **{"base_url": url, "model": "m", "key_variable": None, "max_tokens": 20, "max_retries": 3, **changes}
    )


def ask(endpoint, *seeds, at_once=False):
    """What came of each asking: a text, or the error."""

    async def run():
        async def one(seed):
            try:
                return await endpoint.complete(MESSAGES, {}, seed=seed, bill=Bill())
            except (PipelineError, UnreadableAnswer) as error:
                return error

        try:
            if at_once:
                return await asyncio.gather(*map(one, seeds))
            return [await one(seed) for seed in seeds]
        finally:
            await endpoint.close()

    return asyncio.run(run())


def test_what_was_answered_is_never_asked_again(chat_server, tmp_path):
    chat_server.answer = lambda body, number: (200, f"answer {number}")
    first = ask(Endpoint(config(chat_server.url), cache=RequestCache(tmp_path / "r")), 1, 2)
    again = Endpoint(config(chat_server.url), cache=RequestCache(tmp_path / "r"))
    assert ask(again, 2, 1) == first[::-1] == ["answer 2", "answer 1"]
    assert len(chat_server.requests) == 2
    assert again.spent == {"requests": 2, "prompt_tokens": 20, "completion_tokens": 10}
    assert ask(Endpoint(config(chat_server.url, temperature=0.1), cache=RequestCache(tmp_path / "r")), 1) == [
        "answer 3"
    ]


def test_a_refusal_is_an_answer_too_and_a_failure_is_not(chat_server, tmp_path):
    chat_server.answer = lambda body, number: (400, "too long") if number <= 2 else (500, "boom")
    refused = [ask(Endpoint(config(chat_server.url), cache=RequestCache(tmp_path / "r")), 1)[0] for _ in range(2)]
    assert len(chat_server.requests) == 2 and [str(r) for r in refused] == [str(refused[0])] * 2
    for _ in range(2):
        (gone,) = ask(Endpoint(config(chat_server.url, max_retries=0), cache=RequestCache(tmp_path / "r")), 2)
        assert isinstance(gone, OutOfReach)
    assert len(chat_server.requests) == 4


def test_the_same_question_from_two_sides_is_asked_once(chat_server):
    chat_server.answer = lambda body, number: (200, f"answer {number}")
    assert ask(Endpoint(config(chat_server.url)), 7, 7, 7, at_once=True) == ["answer 1"] * 3


def test_an_endpoint_without_the_parameter_seed_is_not_sent_one(chat_server):
    chat_server.answer = lambda body, number: (200, f"answer {number}")
    assert ask(Endpoint(config(chat_server.url, seeded=False)), 1, 2) == ["answer 1", "answer 2"]
    assert all("seed" not in body for body in chat_server.requests)


def test_broken_bodies_and_stalls_are_asked_again(chat_server):
    ended = threading.Event()

    def answer(body, number):
        if number == 1:
            return 200, b'{"choices": [{"mes'
        if number == 2:
            return 200, b"<html>busy</html>"
        if number == 3:
            ended.wait(5)
        return 200, "fine"

    chat_server.answer = answer
    endpoint = Endpoint(config(chat_server.url, timeout_s=0.3))
    assert ask(endpoint, 1) == ["fine"]
    ended.set()
    # The stalled request may have been worked on all the same: the most it can cost counts beside the 15 tokens answered.
    assert endpoint.budget.spent.tokens == 15 + endpoint._most(chat_server.requests[2]).tokens


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": formatdate(0, usegmt=True)}, 0),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers, seconds):
    assert _retry_after(headers) == seconds


def test_retry_after_as_a_date_is_read_against_the_clock():
    assert 97 < _retry_after({"retry-after": formatdate(time.time() + 100, usegmt=True)}) <= 100


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limit=st.integers(1, 3000), askings=st.integers(1, 12), at_once=st.booleans())
def test_no_budget_is_ever_exceeded(chat_server, limit, askings, at_once):
    chat_server.answer = lambda body, number: (200, "fine")
    endpoint = Endpoint(config(chat_server.url), budget=Budget(BudgetConfig(tokens=limit)))
    results = ask(endpoint, *range(askings), at_once=at_once)
    assert endpoint.budget.spent.tokens == 15 * results.count("fine") <= limit
    assert endpoint.budget.reserved == Cost()
    assert all(r == "fine" or isinstance(r, BudgetExhausted) for r in results)
    assert results.count("fine") == askings or endpoint.budget.exhausted


def test_a_budget_in_usd_needs_prices_and_counts_by_them(chat_server):
    chat_server.answer = lambda body, number: (200, "fine")
    with pytest.raises(UsageError, match="teacher m has no price"):
        Endpoint(config(chat_server.url), budget=Budget(BudgetConfig(usd=1)))
    endpoint = Endpoint(config(chat_server.url, **PRICES), budget=Budget(BudgetConfig(usd=5)))
    results = ask(endpoint, *range(9))
    assert endpoint.budget.spent.usd == pytest.approx(0.6 * results.count("fine"))
    assert "budget of 5 USD has no room" in str(results[-1])


def test_what_a_crash_cut_off_counts_as_spent(chat_server, tmp_path):
    release = threading.Event()
    chat_server.answer = lambda body, number: (release.wait(5), (200, "fine"))[1]
    cut_off = Endpoint(config(chat_server.url), cache=RequestCache(tmp_path / "r"))

    async def crash():
        await asyncio.wait_for(cut_off.complete(MESSAGES, {}, seed=1, bill=Bill()), 0.3)

    with pytest.raises(TimeoutError):
        asyncio.run(crash())
    release.set()
    endpoint = Endpoint(config(chat_server.url), cache=RequestCache(tmp_path / "r"))
    assert ask(endpoint, 1) == ["fine"]
    (_, body) = chat_server.requests
    assert endpoint.budget.spent.tokens == 15 + endpoint._most(body).tokens


def orchestrate(trainer, endpoint, scenarios, concurrency=1):
    orchestrator = Orchestrator(
        retriever=ContextRetriever(trainer.world),
        teachers={"m": OpenAITeacher(trainer, endpoint)},
        planner=FixedPlanner(Plan(teacher="m", depth=1)),
        verifier=Verifier(trainer, 0.7),
        max_attempts=2,
        seed=0,
        concurrency=concurrency,
    )
    return asyncio.run(orchestrator.generate(scenarios)), orchestrator.tally


def right(body, number):
    a, _, b, _ = body["messages"][1]["content"].split("# Situation\n")[1].split()[:4]
    steps = [{"title": "add", "text": f"add {a} {b}"}, {"title": "is", "text": f"is {int(a) + int(b)}"}]
    return 200, json.dumps({"steps": steps})


@pytest.fixture
def scenarios(trainer):
    return list(trainer.scenarios(random.Random(2), 20, [Split.TRAIN]))


def test_a_budget_that_ends_leaves_every_row_in_its_place(trainer, chat_server, scenarios, tmp_path):
    chat_server.answer = right
    free = Endpoint(config(chat_server.url))
    everything, _ = orchestrate(trainer, free, scenarios)
    dearest = max(free._most(body).tokens for body in chat_server.requests)
    tight = Endpoint(config(chat_server.url), budget=Budget(BudgetConfig(tokens=dearest + 150)))
    results, tally = orchestrate(trainer, tight, scenarios)
    done = [isinstance(r, Trajectory) for r in results]
    assert 8 <= sum(done) == tally.accepted < 20 and done == sorted(done, reverse=True)
    assert [r for r in results if isinstance(r, Trajectory)] == everything[: sum(done)]
    assert [r.scenario for r in results] == scenarios
    assert {r.rule for r in results if isinstance(r, Unanswered)} == {"budget"}


def test_a_row_out_of_reach_is_null_with_its_error_and_shifts_no_other(trainer, chat_server, scenarios):
    def answer(body, number):
        status, text = right(body, number)
        gone = f"# Situation\n{scenarios[4].prompt}" in body["messages"][1]["content"]
        return (503, "gone") if gone else (status, text)

    chat_server.answer = answer
    results, tally = orchestrate(trainer, Endpoint(config(chat_server.url)), scenarios, concurrency=3)
    assert [isinstance(r, Trajectory) for r in results] == [i != 4 for i in range(20)]
    assert results[4].rule == "out_of_reach" and "status 503" in results[4].fault
    assert "19 accepted" in str(tally) and "1 unanswered" in str(tally)


def test_a_base_url_may_end_in_a_slash_and_the_body_says_that_it_is_json(chat_server):
    chat_server.answer = lambda body, number: (200, "fine")
    for url in (chat_server.url, f"{chat_server.url}/"):
        assert ask(Endpoint(config(url)), 1) == ["fine"]
    assert chat_server.addressed == {("/v1/chat/completions", "application/json")}


def test_the_window_finds_what_the_endpoint_bears(chat_server):
    bears = 3

    def answer(body, number):
        crowded = chat_server.in_flight > bears
        working.wait(0.01)
        return (429, "slow down") if crowded else (200, "fine")

    working = threading.Event()
    chat_server.answer = answer
    endpoint = Endpoint(config(chat_server.url, concurrency=16, max_retries=50))
    assert ask(endpoint, *range(120), at_once=True) == ["fine"] * 120
    assert len(chat_server.requests) < 2 * 120 and endpoint.limiter.window <= 2 * bears + 1


def test_an_outage_ends_the_run(trainer, chat_server, scenarios):
    chat_server.answer = lambda body, number: right(body, number) if number <= 3 else (503, "gone")
    with pytest.raises(PipelineError, match=r"stays out of reach \(status 503\)"):
        orchestrate(trainer, Endpoint(config(chat_server.url, max_retries=0)), scenarios)
    assert len(chat_server.requests) == 3 + OUTAGE


@moto.mock_aws
def test_the_key_comes_from_the_environment_or_from_secrets_manager(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    client = boto3.client("secretsmanager")
    for name, text in (("plain", "sk-1"), ("entry", '{"key": "sk-2"}'), ("two", '{"a": "1", "b": "2"}')):
        client.create_secret(Name=name, SecretString=text)
    monkeypatch.setenv("KEY", "sk-0")
    assert [teacher_key("KEY", "plain"), teacher_key(None, "plain"), teacher_key(None, "entry")] == [
        "sk-0",
        "sk-1",
        "sk-2",
    ]
    monkeypatch.delenv("KEY")
    assert teacher_key("KEY", "plain") == "sk-1" and teacher_key(None) is None
    with pytest.raises(UsageError, match="secret two holds no key"):
        teacher_key(None, "two")
    with pytest.raises(UsageError, match="secret nowhere cannot be read"):
        teacher_key("KEY", "nowhere")
