import asyncio
import json
import random
import threading

import pytest

from components.shared.collaboration.context_retriever import ContextRetriever
from components.shared.collaboration.endpoint import Endpoint
from components.shared.collaboration.orchestrator import Orchestrator
from components.shared.collaboration.planner import FixedPlanner, Plan
from components.shared.collaboration.teacher_config import TeacherConfig
from components.shared.collaboration.teacher_planner import (
    EXAMPLES,
    Assignment,
    OpenAITeacher,
    ScriptedTeacher,
    UnreadableAnswer,
    answer_schema,
    instructions,
    question,
    read_steps,
)
from components.shared.collaboration.verifier import Verifier
from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.contracts.records import Exhausted, Split, Step, Trajectory
from components.shared.trainers.base_trainer import Habits
from components.shared.trainers.trainer_factory import MODEL_TYPES, create_trainer

KEY = "sk-secret-of-the-test"
FLAWLESS = Habits(visible=1.0, hidden=1.0, noise=0.0)


def said(a, b, total):
    steps = [{"title": "add", "text": f"add {a} {b}"}, {"title": "is", "text": f"is {total}"}]
    return json.dumps({"steps": steps})


def asked(body):
    """The two numbers of the situation that a request asks about."""
    situation = body["messages"][1]["content"].split("# Situation\n")[1].split()
    return int(situation[0]), int(situation[2])


def right(body, number):
    a, b = asked(body)
    return 200, said(a, b, a + b)


PLAN = Plan(teacher="t", depth=2)


def config(server, **changes):
    settings = {"base_url": server.url, "model": "m", "key_variable": "TEACHER_KEY", "max_tokens": 100, "timeout_s": 5}
    return TeacherConfig(**{"kind": "openai", "max_retries": 3, **settings, **changes})


@pytest.fixture
def teacher(trainer, chat_server, monkeypatch):
    """A teacher whose endpoint is the loopback server."""
    monkeypatch.setenv("TEACHER_KEY", KEY)
    return OpenAITeacher(trainer, Endpoint(config(chat_server)))


@pytest.fixture
def assignment(trainer):
    (scenario,) = trainer.scenarios(random.Random(3), 1, [Split.TRAIN])
    return Assignment(scenario=scenario, context=trainer.world.documents[:1], rng=random.Random(0), plan=PLAN)


def teach(teacher, assignment):
    async def once():
        try:
            return await teacher.teach(assignment)
        finally:
            await teacher.close()

    return asyncio.run(once())


def test_the_scripted_teacher_draws_from_its_assignment_alone(trainer, assignment):
    teacher = ScriptedTeacher(trainer)
    again = Assignment(scenario=assignment.scenario, context=(), rng=random.Random(0), plan=PLAN)
    assert teach(teacher, assignment) == teach(teacher, again)


def test_a_good_answer_becomes_judged_steps(teacher, trainer, assignment, chat_server):
    a, b = assignment.scenario.state["a"], assignment.scenario.state["b"]
    chat_server.answer = lambda body, number: (200, said(a, b, a + b + 1))
    assert teach(teacher, assignment) == (
        Step(index=1, title="add", text=f"add {a} {b}", action={"a": a, "b": b}, reward=1.0),
        Step(index=2, title="is", text=f"is {a + b + 1}", action={"sum": a + b + 1}, reward=0.0),
    )
    (body,) = chat_server.requests
    assert body["response_format"]["json_schema"] == {
        "name": "answer",
        "strict": True,
        "schema": answer_schema(trainer),
    }
    assert chat_server.keys == {f"Bearer {KEY}"}
    assert teacher.spent == {"requests": 1, "prompt_tokens": 10, "completion_tokens": 5}


def test_the_question_shows_what_is_known_and_hides_the_state(trainer, assignment):
    scenario = assignment.scenario.model_copy(update={"prompt": "ask f07 =", "state": {"answer": "xyzzy"}})
    steps = trainer.demonstrate(assignment.scenario, random.Random(0), FLAWLESS)
    again = Assignment(
        scenario=scenario,
        context=assignment.context,
        rng=random.Random(0),
        plan=PLAN,
        feedback=("is: off by one",),
        previous=steps,
    )
    text = question(trainer, again)
    assert "f07: mill state haunted" in text and "is: off by one" in text and steps[1].text in text
    assert assignment.context[0].text in text and "xyzzy" not in text


MALFORMED = {
    "prose": "I think the sum is large",
    "fenced": '```json\n{"steps": []}\n```',
    "empty": '{"steps": []}',
    "extra key": '{"steps": [{"title": "add", "text": "add 1 2", "mood": "gay"}]}',
    "number": '{"steps": [{"title": "add", "text": 3}]}',
    "unknown title": '{"steps": [{"title": "sing", "text": "add 1 2"}]}',
    "off the format": '{"steps": [{"title": "add", "text": "add one two"}, {"title": "is", "text": "is 3"}]}',
    "truncated": '{"steps": [{"title": "add", "te',
    "blank text": '{"steps": [{"title": "add", "text": ""}]}',
}


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_answer_is_refused_with_its_fault(trainer, assignment, answer):
    with pytest.raises(UnreadableAnswer) as fault:
        read_steps(trainer, assignment.scenario, answer)
    assert str(fault.value) and fault.value.answer == answer


def test_a_malformed_answer_is_repaired_once(teacher, assignment, chat_server):
    chat_server.answer = lambda body, number: (200, MALFORMED["extra key"]) if number == 1 else right(body, number)
    assert [step.reward for step in teach(teacher, assignment)] == [1.0, 1.0]
    repair = chat_server.requests[1]["messages"]
    assert repair[2] == {"role": "assistant", "content": MALFORMED["extra key"]}
    assert "steps.0.mood: Extra inputs are not permitted" in repair[3]["content"]


def test_an_answer_malformed_twice_is_an_attempt_that_failed(teacher, assignment, chat_server):
    chat_server.answer = lambda body, number: (200, MALFORMED["prose"])
    with pytest.raises(UnreadableAnswer, match="Invalid JSON"):
        teach(teacher, assignment)
    assert len(chat_server.requests) == 2


def test_an_answer_cut_off_says_which_limit(teacher, assignment, chat_server):
    chat_server.answer = lambda body, number: (200, "cut off")
    with pytest.raises(UnreadableAnswer, match=r"cut off at teacher.max_tokens = 100"):
        teach(teacher, assignment)


def test_too_many_requests_are_tried_again(teacher, assignment, chat_server):
    chat_server.answer = lambda body, number: (429, "slow down") if number <= 2 else right(body, number)
    assert len(teach(teacher, assignment)) == 2
    assert len(chat_server.requests) == 3


def test_an_endpoint_that_stays_broken_ends_with_the_remedy(teacher, assignment, chat_server):
    chat_server.answer = lambda body, number: (500, "boom")
    with pytest.raises(PipelineError, match=r"out of reach \(status 500\) after 3 retries: check the endpoint"):
        teach(teacher, assignment)
    assert len(chat_server.requests) == 4


def test_an_endpoint_that_nobody_serves_ends_with_the_remedy(trainer, assignment):
    endpoint = Endpoint(TeacherConfig(base_url="http://127.0.0.1:1/v1", model="m", key_variable=None, max_retries=0))
    with pytest.raises(PipelineError, match=r"127.0.0.1:1/v1 stays out of reach \(Cannot connect to host"):
        teach(OpenAITeacher(trainer, endpoint), assignment)


def test_an_endpoint_without_structured_outputs_is_asked_plainly_from_then_on(teacher, assignment, chat_server):
    def plain_only(body, number):
        return (400, "response_format is not supported") if "response_format" in body else right(body, number)

    chat_server.answer = plain_only

    async def twice():
        await teacher.teach(assignment)
        await teacher.teach(assignment)
        await teacher.close()

    asyncio.run(twice())
    assert ["response_format" in body for body in chat_server.requests] == [True, False, False]


def test_a_request_refused_either_way_is_an_attempt_that_failed(teacher, assignment, chat_server):
    chat_server.answer = lambda body, number: (400, f"context too long for {KEY}")
    with pytest.raises(UnreadableAnswer, match="refuses the request: status 400") as fault:
        teach(teacher, assignment)
    assert KEY not in str(fault.value) and "response_format" in chat_server.requests[0]


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "refuses the key in TEACHER_KEY"), (403, "refuses the key"), (404, "has no model 'm'")],
)
def test_a_request_that_can_never_work_is_a_usage_error_without_the_key(
    teacher, assignment, chat_server, status, message
):
    chat_server.answer = lambda body, number: (status, f"Incorrect API key provided: {KEY}")
    with pytest.raises(UsageError, match=message) as error:
        teach(teacher, assignment)
    assert KEY not in str(error.value) and len(chat_server.requests) == 1


def test_a_missing_key_names_its_variable(monkeypatch):
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    with pytest.raises(UsageError, match="TEACHER_KEY holds no key"):
        Endpoint(TeacherConfig(base_url="http://127.0.0.1:1", model="m", key_variable="TEACHER_KEY"))
    with pytest.raises(UsageError, match=r"teacher\.model is not set"):
        Endpoint(TeacherConfig(base_url="http://127.0.0.1:1", key_variable=None))


def orchestrate(trainer, teacher, scenarios, concurrency):
    orchestrator = Orchestrator(
        retriever=ContextRetriever(trainer.world),
        teachers={"t": teacher},
        planner=FixedPlanner(PLAN),
        verifier=Verifier(trainer, 0.7),
        max_attempts=3,
        seed=0,
        concurrency=concurrency,
    )
    return asyncio.run(orchestrator.generate(scenarios))


def test_an_endpoint_teaches_many_at_once_and_a_failed_row_shifts_no_other(teacher, trainer, chat_server):
    scenarios = list(trainer.scenarios(random.Random(9), 40, [Split.TRAIN]))
    hopeless = {(s.state["a"], s.state["b"]) for s in scenarios[::10]}
    wrong_at_first = {(s.state["a"], s.state["b"]) for s in scenarios[1::10]}

    everyone = threading.Barrier(6, timeout=10)

    def answer(body, number):
        if number <= 6:
            everyone.wait()
        pair = asked(body)
        if pair in hopeless:
            return 200, "no idea"
        told = "What was wrong with it" in body["messages"][1]["content"]
        return 200, said(*pair, sum(pair) + (pair in wrong_at_first and not told))

    chat_server.answer = answer
    results = orchestrate(trainer, teacher, scenarios, concurrency=6)
    assert [r.scenario for r in results] == scenarios
    assert [i for i, r in enumerate(results) if isinstance(r, Exhausted)] == [0, 10, 20, 30]
    assert [i for i, r in enumerate(results) if isinstance(r, Trajectory) and r.attempt == 2] == [1, 11, 21, 31]
    assert all(r.teacher == "m" for r in results)
    assert chat_server.peak == 6
    assert all(attempt.answer == "no idea" for attempt in results[0].attempts)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_what_a_flawless_expert_says_over_the_wire_is_read_back_as_it_was(model_type):
    trainer, rng = create_trainer(model_type, "wrackmere"), random.Random(0)
    for scenario in trainer.scenarios(rng, 25, [Split.TRAIN]):
        steps = trainer.demonstrate(scenario, rng, FLAWLESS)
        wire = json.dumps({"steps": [{"title": step.title, "text": step.text} for step in steps]})
        read = read_steps(trainer, scenario, wire)
        assert read == steps
        assert Verifier(trainer, trainer.pass_score).verify(scenario, read).passed


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_instructions_show_world_rules_words_and_examples(model_type):
    trainer = create_trainer(model_type, "wrackmere")
    text = instructions(trainer)
    assert trainer.world.summary in text and text.count("Answer: {") == EXAMPLES
    assert all(rule.message in text for rule in trainer.world.rules_for(model_type))
    assert all(title in text for title in trainer.step_titles)
