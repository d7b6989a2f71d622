"""The gate: what it measures, and that nothing passes by default."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.distillation.quality_validator import distinct_n, share, validate
from components.distillation.spec import DistillationConfig
from components.shared.contracts.errors import GateError
from components.shared.contracts.records import Scenario, Split
from components.shared.performance.scoring import Scores
from components.shared.trainers.base_trainer import Check, Reward

CONFIG = DistillationConfig(resamples=200)
SCENARIOS = [
    Scenario(id=f"s{i}", model_type="toy", group="g", split=Split.TEST, prompt=f"p{i}", state={"i": i}, difficulty=0.5)
    for i in range(24)
]


class Toy:
    """Two judges: an answer is right where it says its scenario's number, or everything is to the `blind` one."""

    name = "toy"

    def __init__(self, blind=None):
        self.blind = blind

    def _right(self, judge, scenario, text):
        return 0.5 if judge == self.blind else float(text.split()[-1] == str(scenario.state["i"]))

    def check(self, scenario, text):
        score = self._right("check", scenario, text)
        return Check(score=score, correct=score == 1, faults=())

    def reward(self, scenario, text):
        return Reward(total=self._right("outcome", scenario, text), components={})


def scored(right, trainer=None, outcome=None, words="say"):
    """Scores of a policy that is right on the first `right` scenarios (by outcome: on the first `outcome`)."""
    trainer = trainer or Toy()
    answers = [f"{words} {i if i < right else 'x'}" for i in range(len(SCENARIOS))]
    check = np.array([trainer.check(s, a).score for s, a in zip(SCENARIOS, answers, strict=True)])
    rewards = np.array([trainer.reward(s, a).total for s, a in zip(SCENARIOS, answers, strict=True)])
    if outcome is not None:
        rewards = np.array([float(i < outcome) for i in range(len(SCENARIOS))])
    return Scores(greedy=check, sampled=check, correct=check, rewards=rewards, answers=answers, faults=[()] * 24)


def judged(student, teacher, champion, trainer=None, config=CONFIG):
    scores = {"student": student, "teacher": teacher, "champion": champion}
    return validate(scores, SCENARIOS, trainer or Toy(), config)


def criteria(found):
    return {name: criterion["margin"] >= 0 for name, criterion in found["gate"]["criteria"].items()}


def test_a_student_as_good_as_its_teacher_is_accepted():
    found = judged(scored(20), scored(20), scored(10))
    assert found["gate"]["accepted"] and all(criteria(found).values())
    assert found["retention"]["low"] == found["retention_by_outcome"]["low"] == 1.0
    assert found["distinct_2"]["student"] == found["distinct_2"]["teacher"]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 24), st.integers(12, 24), st.integers(0, 24))
def test_who_is_accepted_keeps_95_percent_of_both_verifiers_and_loses_nothing_to_the_champion(right, taught, before):
    """Whatever the scores: acceptance implies the bounds, and every bound that is missed is a refusal."""
    found = judged(scored(right), scored(taught), scored(before))
    retained, gain = right / taught, (right - before) / 24
    assert found["retention"]["mean"] == pytest.approx(retained)
    assert found["retention"]["low"] <= retained + 1e-9 and found["gain_over_champion"]["low"] <= gain + 1e-9
    if found["gate"]["accepted"]:
        assert retained >= 0.95 and gain >= -CONFIG.max_loss
    assert found["gate"]["accepted"] == all(criteria(found).values())
    assert found["gate"]["margin"] == min(c["margin"] for c in found["gate"]["criteria"].values())


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 23))
def test_a_better_student_is_never_judged_worse(right):
    better, worse = (judged(scored(n), scored(20), scored(5))["retention"]["low"] for n in (right + 1, right))
    assert better >= worse


def test_the_lower_bound_decides_and_not_the_mean():
    """23 of 24 is 0.958 of the teacher by the mean, and less by what 24 scenarios can tell."""
    found = judged(scored(23), scored(24), scored(5))
    assert found["retention"]["mean"] > 0.95 > found["retention"]["low"]
    assert not found["gate"]["accepted"]


def test_each_verifier_can_refuse_by_itself():
    only_check = judged(scored(20, outcome=10), scored(20), scored(5))
    assert criteria(only_check) == {
        "retention_of_teacher": True,
        "retention_by_outcome": False,
        "gain_over_champion": True,
        "diversity": True,
    }
    assert not only_check["gate"]["accepted"]


def test_a_regression_against_the_champion_is_refused_however_bad_the_teacher():
    found = judged(scored(10), scored(10), scored(20))
    assert criteria(found)["retention_of_teacher"] and not criteria(found)["gain_over_champion"]
    assert not found["gate"]["accepted"]


def test_one_answer_for_everybody_is_refused():
    student = scored(20)
    dull = Scores(
        greedy=student.greedy,
        sampled=student.sampled,
        correct=student.correct,
        rewards=student.rewards,
        answers=["say so"] * 24,
        faults=student.faults,
    )
    found = judged(dull, scored(20), scored(5))
    assert [name for name, kept in criteria(found).items() if not kept] == ["diversity"]


def test_an_empty_set_and_a_teacher_that_scores_nothing_refuse():
    with pytest.raises(GateError, match="evaluation set is empty"):
        validate({role: scored(3) for role in ("student", "teacher", "champion")}, [], Toy(), CONFIG)
    with pytest.raises(GateError, match="scores 0 on every held-out scenario"):
        judged(scored(1), scored(0, outcome=1), scored(0))
    with pytest.raises(GateError, match="the teacher scores on 2 of 24 held-out scenarios: too few"):
        judged(scored(2), scored(2), scored(1))


@pytest.mark.parametrize("blind", ["check", "outcome"])
def test_a_verifier_that_looks_at_nothing_refuses(blind):
    trainer = Toy(blind)
    with pytest.raises(GateError, match=rf"{blind} gives 0.5 to all 24 answers of the student, mismatched ones too"):
        judged(scored(20, trainer), scored(18, trainer), scored(5, trainer), trainer)


def test_a_faultless_student_is_no_constant_score():
    found = judged(scored(24), scored(24), scored(20))
    assert found["gate"]["accepted"]


def test_a_student_that_gets_nothing_right_is_refused_and_no_fault():
    assert not judged(scored(0), scored(20), scored(5))["gate"]["accepted"]


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=6).map(" ".join), max_size=8), st.integers(1, 3))
def test_distinct_n_is_a_share_and_repeating_answers_never_raises_it(answers, n):
    once = distinct_n(answers, n)
    assert 0 <= once <= 1
    assert distinct_n(answers * 2, n) == pytest.approx(once / 2)


def test_distinct_n_by_hand():
    assert distinct_n(["a b c", "a b"], 2) == pytest.approx(2 / 3)
    assert distinct_n(["a"], 2) == 0.0
    assert (share(0.2, 0.4), share(0.0, 0.0), share(0.1, 0.0)) == (0.5, 1.0, 0.0)
