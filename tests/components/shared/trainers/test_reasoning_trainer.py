"""Reasoning over real reasoning-gym entries: nothing here is mocked."""

import functools
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.collaboration.world import World
from components.shared.contracts.errors import CorruptArtifact, UsageError
from components.shared.contracts.records import Scenario, Split, Step
from components.shared.trainers.base_trainer import Habits
from components.shared.trainers.reasoning_tasks import TASKS
from components.shared.trainers.reasoning_trainer import ReasoningTrainer, create_task

PERFECT = Habits(visible=1, hidden=1, noise=0)
BLIND_TO_SENSE = Habits(visible=1, hidden=0, noise=0)
CARELESS = Habits(visible=0, hidden=1, noise=0)
NOISY = Habits(visible=0.3, hidden=0.3, noise=0.5)


def trainer_of_toy_world() -> ReasoningTrainer:
    parts = dict.fromkeys(["documents", "facts", "personas", "rules", "quests", "states"], ())
    return ReasoningTrainer(World(name="toy", version=1, today=1, summary="", lists={}, digest="0", **parts))


TRAINER = trainer_of_toy_world()
INDICES = st.integers(0, 299)


@functools.cache
def scenarios() -> list[Scenario]:
    """300 scenarios of all tasks; drawn when first needed, so that collecting tests does not import reasoning-gym."""
    return list(TRAINER.scenarios(random.Random(7), 300, list(Split)))


def scenarios_of(task: str) -> list[Scenario]:
    return [case for case in scenarios() if case.state["task"] == task]


def scenario(task: str, seed: int = 0, **metadata) -> Scenario:
    """A scenario of the task, the first in a seeded stream whose metadata is as given."""
    rng = random.Random(seed)
    while True:
        group, state, difficulty = TRAINER.sample_state(rng)
        if state["task"] == task and metadata.items() <= state["metadata"].items():
            return Scenario(
                id="0",
                model_type="reasoning",
                group=group,
                split=TRAINER.split_of(group),
                prompt=TRAINER.prompt(state),
                state=state,
                difficulty=difficulty,
            )


def sorting(numbers: list[int], direction: str) -> Scenario:
    """A sorting problem in the gym's own form."""
    ordered = sorted(numbers, reverse=direction == "descending")
    state = {
        "task": "number_sorting",
        "question": f"Sort these numbers in {direction} order: {numbers}",
        "answer": str([f"{n}.0" for n in ordered]),
        "metadata": {"original_numbers": [f"{n}.0" for n in numbers], "direction": direction},
    }
    return scenarios()[0].model_copy(update={"state": state})


def written(texts: list[str]) -> list[Step]:
    return [Step(index=i, title="answer", text=text, action={}, reward=0) for i, text in enumerate(texts, 1)]


def demonstrated(case: Scenario, habits: Habits, seed: int = 0, feedback: tuple[str, ...] = ()) -> tuple[Step, ...]:
    return TRAINER.demonstrate(case, random.Random(seed), habits, feedback)


def test_every_configured_task_is_drawn():
    assert len(TRAINER.tasks) >= 3
    assert {case.state["task"] for case in scenarios()} == set(TRAINER.tasks)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_speaker_without_slips_satisfies_every_judge(task):
    for case in scenarios_of(task):
        steps = demonstrated(case, PERFECT)
        text = TRAINER.completion(steps)
        assert TRAINER.verify(case, steps).score == 1
        assert TRAINER.judge(case, steps) == [1.0] * len(steps) == [step.reward for step in steps]
        assert TRAINER.reward(case, text).total == 1
        assert TRAINER.check(case, text).correct
        assert TRAINER.check(case, text).score == 1


@given(INDICES, st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_whatever_is_demonstrated_parses_back_to_its_actions(index, seed, visible, hidden, noise):
    case = scenarios()[index]
    steps = demonstrated(case, Habits(visible=visible, hidden=hidden, noise=noise), seed)
    action = TRAINER.parse(case, TRAINER.completion(steps))
    assert action == {"work": [step.action for step in steps[:-1]], "answer": steps[-1].action["answer"]}
    assert {step.title for step in steps} <= set(TRAINER.step_titles)


@given(INDICES, st.integers(0, 2**32))
def test_prompts_and_completions_stay_short_and_in_the_vocabulary(index, seed):
    case = scenarios()[index]
    words = set(TRAINER.vocabulary())
    completion = TRAINER.completion(demonstrated(case, NOISY, seed)).split()
    assert set(case.prompt.split()) <= words
    assert set(completion) <= words
    assert len(case.prompt.split()) <= 24
    assert len(completion) <= 24


@given(INDICES, st.lists(st.sampled_from([*TRAINER.vocabulary(), "os.system", "'"]), max_size=24))
def test_judges_take_any_text_and_agree_on_what_is_right(index, words):
    case = scenarios()[index]
    text = " ".join(words)
    reward, check = TRAINER.reward(case, text), TRAINER.check(case, text)
    assert 0 <= reward.total <= 1
    assert (reward.gate == "schema") == (TRAINER.parse(case, text) is None) == (check.faults == ("schema",))
    assert check.correct == (check.score == 1)
    assert all(0 <= r <= 1 for r in TRAINER.judge(case, written([text])))
    assert 0 <= TRAINER.verify(case, written([text])).score <= 1


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_process_judges_are_blind_to_the_sense_and_the_outcome_judges_see_it(task):
    correct = []
    for case in scenarios_of(task):
        steps = demonstrated(case, BLIND_TO_SENSE)
        text = TRAINER.completion(steps)
        said, right = steps[-1].action["answer"], TRAINER.tasks[task].canonical(case.state["answer"])
        assert TRAINER.judge(case, steps) == [1.0] * len(steps)
        assert TRAINER.verify(case, steps).passed
        assert TRAINER.check(case, text).correct == (said == right)
        assert (TRAINER.reward(case, text).total == 1) == (said == right)
        correct.append(said == right)
    assert sum(correct) / len(correct) < 0.8


@pytest.mark.parametrize(
    ("texts", "reasons", "rewards"),
    [
        (["least 2", "least 9", "least 6", "answer 2 9 6"], ("compare", "compare"), [1, 0.1, 0.1, 1]),
        (["least 2", "least 6", "answer 2 6"], ("count",), [1, 1, 0.1]),
        (["least 2", "least 6", "least 9", "least 9", "answer 2 6 9 9"], ("count",), [1, 1, 1, 0.1, 1]),
        (["least 2", "least 6", "least 9", "answer 2 9 6"], ("answer",), [1, 1, 1, 0.1]),
        (["least 2", "lowest 6", "least 9", "answer 2 6 9"], ("schema", "answer"), [1, 0, 1, 0.1]),
        (["least 2", "least 6", "least 9"], ("schema",), [1, 1, 0]),
    ],
)
def test_verifier_and_step_judge_name_each_fault(texts, reasons, rewards):
    case = sorting([9, 2, 6], "ascending")
    verdict = TRAINER.verify(case, written(texts))
    assert not verdict.passed
    assert tuple(reason.partition(":")[0] for reason in verdict.reasons) == reasons
    assert TRAINER.judge(case, written(texts)) == rewards


def test_no_steps_at_all_fail_closed():
    verdict = TRAINER.verify(scenarios()[0], [])
    assert not verdict.passed
    assert verdict.reasons
    assert TRAINER.judge(scenarios()[0], []) == []


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_careless_speaker_slips_and_mends_what_the_verdict_names(task):
    cases = scenarios_of(task)
    slipped = 0
    for case in cases:
        steps, feedback = demonstrated(case, CARELESS), ()
        slipped += not TRAINER.verify(case, steps).passed
        for _ in range(2):
            feedback += TRAINER.verify(case, steps).reasons
            steps = demonstrated(case, CARELESS, feedback=feedback)
        assert TRAINER.verify(case, steps).passed
    assert slipped > len(cases) / 2


def test_teacher_and_folk_are_worth_teaching_and_worth_improving():
    def mean_reward(habits: Habits) -> float:
        texts = [(case, TRAINER.completion(demonstrated(case, habits, i))) for i, case in enumerate(scenarios())]
        return sum(TRAINER.reward(case, text).total for case, text in texts) / len(texts)

    assert 0.2 < mean_reward(TRAINER.folk) < mean_reward(TRAINER.teacher) < 0.6


def test_the_gym_scores_partial_spelling_by_place():
    case = scenario("spell_backward", word_len=5)
    right = [step.text for step in demonstrated(case, PERFECT)]
    *work, answer = right
    wrong_last = " ".join([*work, answer.rsplit(" ", 1)[0], "q" if not answer.endswith("q") else "z"])
    assert TRAINER.reward(case, wrong_last).components["answer"] == pytest.approx(0.8)
    assert not TRAINER.check(case, wrong_last).correct


def test_the_check_refuses_what_the_gym_tolerates():
    """reasoning-gym forgives a sorted number that is off by one; the check asks for the entry's own answer as well."""
    case = sorting([9, 2, 6], "ascending")
    near = "least 2 least 6 least 9 answer 2 6 10"
    assert TRAINER.reward(case, near).components["answer"] == 1
    assert TRAINER.check(case, near).faults == ("content",)


def test_the_gym_scores_direction():
    turned = "least 2 least 6 least 9 answer 9 6 2"
    assert TRAINER.reward(sorting([9, 2, 6], "descending"), turned).components["answer"] == 1
    assert TRAINER.reward(sorting([9, 2, 6], "ascending"), turned).components["answer"] == 0
    assert TRAINER.check(sorting([9, 2, 6], "ascending"), turned).faults == ("reasoning_gym", "order")


@pytest.mark.parametrize(
    ("text", "content", "form", "total", "score"),
    [
        ("least 2 least 6 least 9 answer 2 9 6", 1.0, 1.0, 0.3, 1 / 6),
        ("least 2 least 6 answer 2 6", 0.8, 0.0, 0.16, 1 / 3),
        ("least 2 answer none", 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_a_wrong_answer_is_graded_by_its_content_and_form_and_never_more_than_half_right(
    text, content, form, total, score
):
    case = sorting([9, 2, 6], "ascending")
    reward = TRAINER.reward(case, text)
    assert reward.components == {"answer": 0.0, "content": pytest.approx(content), "format": form}
    assert reward.total == pytest.approx(total)
    assert TRAINER.check(case, text).score == pytest.approx(score)


def test_an_empty_selection_is_said_as_none():
    state = {
        "task": "number_filtering",
        "question": "Keep all numbers larger than 9 in this list: ['4', '9']",
        "answer": "[]",
        "metadata": {"original_numbers": ["4", "9"], "operation": "keep_larger", "filter_value": "9"},
    }
    case = scenarios()[0].model_copy(update={"state": state})
    text = TRAINER.completion(demonstrated(case, PERFECT))
    assert text == "first 4 below second 9 equal answer none"
    assert TRAINER.check(case, text).correct
    assert not TRAINER.check(case, text.replace("none", "9")).correct


@pytest.mark.parametrize("options", [{}, {"min_numbers": 2, "max_numbers": 10, "min_value": 0, "max_value": 99}])
@pytest.mark.parametrize("name", ["number_sorting", "number_filtering"])
def test_our_solution_is_the_gyms_answer_over_the_whole_range(name, options):
    task, rng = create_task(name, options), random.Random(3)
    for _ in range(300):
        entry, problem = task.draw(rng)
        assert task.right(problem) == task.canonical(entry["answer"])
        assert task.score(entry, task.right(problem)) == 1


def test_held_out_problems_are_never_trained_on_in_any_order_or_sense():
    def operands(case: Scenario) -> tuple[str, ...]:
        task = TRAINER.tasks[case.state["task"]]
        return (task.name, *sorted(task.read(case.state["metadata"]).operands))

    train = {operands(case) for case in TRAINER.scenarios(random.Random(1), 3000, [Split.TRAIN])}
    test = {operands(case) for case in TRAINER.scenarios(random.Random(2), 1000, [Split.TEST])}
    assert not train & test
    assert {name for name, *_ in test} == {name for name, *_ in train} == set(TRAINER.tasks)


def test_equal_problems_are_one_scenario_wherever_the_gym_drew_them():
    cases = list(TRAINER.scenarios(random.Random(4), 3000, list(Split)))
    assert len({case.prompt for case in cases}) == len(cases)


def test_the_same_seed_gives_the_same_scenarios_and_demonstrations():
    def made() -> list[str]:
        rng = random.Random(11)
        trainer = trainer_of_toy_world()
        cases = list(trainer.scenarios(rng, 50, list(Split)))
        return [c.model_dump_json() + trainer.completion(trainer.demonstrate(c, rng, trainer.teacher)) for c in cases]

    assert made() == made()


def test_difficulty_grows_with_length():
    assert scenario("spell_backward", word_len=3).difficulty == 0
    assert scenario("spell_backward", word_len=5).difficulty == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"answer": "['1', '2']"},
        {"answer": "__import__('os').getpid()"},
        {"answer": None},
        {"metadata": {}},
        {"metadata": {"original_numbers": ["9", "2", "6"], "direction": "sideways"}},
    ],
)
def test_a_state_whose_answer_is_not_its_problems_is_corrupt(fault):
    case = sorting([9, 2, 6], "ascending")
    broken = case.model_copy(update={"state": {**case.state, **fault}})
    with pytest.raises(CorruptArtifact, match="number_sorting"):
        TRAINER.reward(broken, "least 2 least 6 least 9 answer 2 6 9")


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("tasks: {number_sortin: {}}", "unknown reasoning task 'number_sortin': did you mean 'number_sorting'?"),
        ("tasks: {number_sorting: {max_number: 4}}", "did you mean 'max_numbers'?"),
        ("tasks: {number_sorting: {max_numbers: 99}}", "max_numbers"),
        ("tasks: {number_sorting: {min_value: 9, max_value: 3}}", "a minimum is above its maximum"),
        ("group: 20\ntasks: {number_sorting: }", "did you mean 'groups'?"),
        ("tasks: {}", "tasks"),
        ("tasks: {", "reasoning.yaml:"),
    ],
)
def test_a_bad_configuration_is_one_line_with_the_remedy(tmp_path, monkeypatch, yaml, message):
    (tmp_path / "model_types").mkdir()
    (tmp_path / "model_types" / "reasoning.yaml").write_text(yaml)
    monkeypatch.setenv("SRL_RLVR_CONFIGS", str(tmp_path))
    with pytest.raises(UsageError) as refused:
        trainer_of_toy_world()
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_reasoning_gym_is_imported_only_where_a_problem_is_drawn_or_scored():
    program = "import sys, components.shared.trainers.reasoning_trainer; sys.exit('reasoning_gym' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
