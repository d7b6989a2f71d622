import asyncio
import gc
import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.shared.collaboration.context_retriever import ContextRetriever
from components.shared.collaboration.orchestrator import NEW_OBJECTS, Orchestrator
from components.shared.collaboration.planner import FixedPlanner, Plan
from components.shared.collaboration.teacher_planner import ScriptedTeacher, UnreadableAnswer
from components.shared.collaboration.verifier import Verifier
from components.shared.contracts.errors import PipelineError
from components.shared.contracts.records import Exhausted, Split, Trajectory


class Slow(ScriptedTeacher):
    """Yields to the others for a random number of turns before it answers."""

    def __init__(self, trainer, seed=0):
        super().__init__(trainer)
        self.turns = random.Random(seed)
        self.in_work = self.peak = 0

    async def teach(self, assignment):
        self.in_work += 1
        self.peak = max(self.peak, self.in_work)
        for _ in range(self.turns.randrange(5)):
            await asyncio.sleep(0)
        self.in_work -= 1
        return await super().teach(assignment)


class Stubborn(ScriptedTeacher):
    """Never mends; answers nothing at all to scenarios whose `a` is odd."""

    def __init__(self, trainer):
        super().__init__(trainer)
        self.feedback = {}

    async def teach(self, assignment):
        self.feedback.setdefault(assignment.scenario.id, []).append(assignment.feedback)
        if assignment.scenario.state["a"] % 2:
            raise UnreadableAnswer("no JSON", "well, let me think")
        steps = await super().teach(assignment)
        return (steps[0], steps[1].model_copy(update={"text": "is 999"}))


def orchestrate(trainer, teacher, scenarios, concurrency=1, seed=5):
    orchestrator = Orchestrator(
        retriever=ContextRetriever(trainer.world),
        teachers={"t": teacher},
        planner=FixedPlanner(Plan(teacher="t", depth=2)),
        verifier=Verifier(trainer, 0.7),
        max_attempts=3,
        seed=seed,
        concurrency=concurrency,
    )
    return asyncio.run(orchestrator.generate(scenarios))


@pytest.fixture
def scenarios(trainer):
    return list(trainer.scenarios(random.Random(1), 60, [Split.TRAIN]))


def test_what_the_verifier_refuses_is_mended_on_the_next_attempt(trainer, scenarios):
    results = orchestrate(trainer, ScriptedTeacher(trainer), scenarios)
    assert all(isinstance(r, Trajectory) and r.verdict.passed for r in results)
    attempts = Counter(r.attempt for r in results)
    assert set(attempts) == {1, 2} and min(attempts.values()) > 15
    assert [r.scenario for r in results] == scenarios


def test_what_no_attempt_gets_right_ends_with_all_its_attempts(trainer, scenarios):
    teacher = Stubborn(trainer)
    results = orchestrate(trainer, teacher, scenarios)
    assert all(isinstance(r, Exhausted) and [a.number for a in r.attempts] == [1, 2, 3] for r in results)
    unreadable = next(r for r in results if r.scenario.state["a"] % 2)
    assert {(a.fault, a.answer, a.verdict) for a in unreadable.attempts} == {("no JSON", "well, let me think", None)}
    wrong = next(r for r in results if not r.scenario.state["a"] % 2)
    assert all(a.steps[1].text == "is 999" and not a.verdict.passed for a in wrong.attempts)
    assert teacher.feedback[wrong.scenario.id] == [(), ("is: 'is 999' is wrong",), ("is: 'is 999' is wrong",)]
    assert teacher.feedback[unreadable.scenario.id][1:] == [("no JSON",), ("no JSON",)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(concurrency=st.integers(1, 40), turns=st.integers(0, 10_000), data=st.data())
def test_neither_concurrency_nor_order_changes_any_result(trainer, scenarios, concurrency, turns, data):
    expected = {r.scenario.id: r for r in orchestrate(trainer, ScriptedTeacher(trainer), scenarios)}
    shuffled = data.draw(st.permutations(scenarios))
    results = orchestrate(trainer, Slow(trainer, turns), shuffled, concurrency)
    assert results == [expected[s.id] for s in shuffled]


def test_never_more_than_concurrency_at_once(trainer, scenarios):
    teacher = Slow(trainer)
    orchestrate(trainer, teacher, scenarios, concurrency=7)
    assert teacher.peak == 7


def test_another_seed_gives_other_answers(trainer, scenarios):
    one, other = (orchestrate(trainer, ScriptedTeacher(trainer), scenarios, seed=s) for s in (1, 2))
    assert one != other


def test_an_endpoint_out_of_reach_ends_the_run_with_its_own_error(trainer, scenarios):
    class Gone(Slow):
        closed = False

        async def teach(self, assignment):
            if assignment.scenario == scenarios[20]:
                raise PipelineError("teacher http://t stays out of reach: check it")
            return await super().teach(assignment)

        async def close(self):
            self.closed = True

    teacher = Gone(trainer)
    with pytest.raises(PipelineError, match="http://t stays out of reach"):
        orchestrate(trainer, teacher, scenarios, concurrency=8)
    assert teacher.closed


def test_no_scenarios_give_no_results(trainer):
    assert orchestrate(trainer, ScriptedTeacher(trainer), []) == []


def test_garbage_is_looked_for_rarely_while_scenarios_are_in_work_and_as_before_afterwards(trainer, scenarios):
    class Watching(ScriptedTeacher):
        async def teach(self, assignment):
            thresholds.add(gc.get_threshold())
            return await super().teach(assignment)

    thresholds, before = set(), gc.get_threshold()
    orchestrate(trainer, Watching(trainer), scenarios)
    assert {first for first, *_ in thresholds} == {NEW_OBJECTS} and gc.get_threshold() == before


def test_a_teacher_that_never_waits_costs_few_turns_of_the_loop(trainer, scenarios, monkeypatch):
    turns = Counter()
    sleep = asyncio.sleep

    async def counted(delay):
        turns["sleep"] += 1
        await sleep(delay)

    monkeypatch.setattr(asyncio, "sleep", counted)
    orchestrate(trainer, ScriptedTeacher(trainer), scenarios * 10)
    assert 1 <= turns["sleep"] <= len(scenarios * 10) // 64
