import pytest

from components.shared.collaboration.verifier import MIN_BATCH, Judged, Verifier
from components.shared.contracts.errors import GateError, PipelineError
from components.shared.contracts.records import Split, Verdict
from components.shared.trainers.base_trainer import Habits


def batch(trainer, rng, habits, count=30):
    verifier = Verifier(trainer, 0.7)
    answers = [(s, trainer.demonstrate(s, rng, habits)) for s in trainer.scenarios(rng, count, [Split.TRAIN])]
    return [Judged(scenario=s, steps=steps, score=verifier.verify(s, steps).score) for s, steps in answers]


def constant(score):
    return Verdict(verifier="sum/constant@1", score=score, passed=score >= 0.7, gates={}, criteria={})


FLAWLESS = Habits(visible=1.0, hidden=1.0, noise=0.0)


def test_the_threshold_decides_what_passes(trainer, rng):
    (scenario,) = trainer.scenarios(rng, 1, [Split.TRAIN])
    half = trainer.demonstrate(scenario, rng, Habits(visible=0.0, hidden=0.0, noise=0.0))
    assert not Verifier(trainer, 0.7).verify(scenario, half).passed
    assert Verifier(trainer, 0.5).verify(scenario, half).passed


def test_a_failed_gate_fails_whatever_the_score(trainer, rng, monkeypatch):
    (scenario,) = trainer.scenarios(rng, 1, [Split.TRAIN])
    steps = trainer.demonstrate(scenario, rng, FLAWLESS)
    verdict = trainer.verify(scenario, steps).model_copy(update={"gates": {"schema": False}})
    monkeypatch.setattr(trainer, "verify", lambda scenario, steps: verdict)
    assert not Verifier(trainer, 0.0).verify(scenario, steps).passed


def test_a_state_that_cannot_be_read_is_one_clear_error(trainer, rng):
    (scenario,) = trainer.scenarios(rng, 1, [Split.TRAIN])
    steps = trainer.demonstrate(scenario, rng, FLAWLESS)
    broken = scenario.model_copy(update={"state": {"a": 1}})
    with pytest.raises(PipelineError, match=f"scenario {scenario.id}: sum cannot read its state"):
        Verifier(trainer, 0.7).verify(broken, steps)


@pytest.mark.parametrize("score", [0.0, 0.9, 1.0])
def test_a_constant_verifier_is_refused(trainer, rng, monkeypatch, score):
    monkeypatch.setattr(trainer, "verify", lambda scenario, steps: constant(score))
    with pytest.raises(GateError, match=f"gives {score:g} to all of 30 differing"):
        Verifier(trainer, 0.7).refuse_constant(batch(trainer, rng, FLAWLESS))


def test_a_faultless_teacher_is_not_taken_for_a_constant_verifier(trainer, rng):
    answers = batch(trainer, rng, FLAWLESS)
    assert {judged.score for judged in answers} == {1.0}
    Verifier(trainer, 0.7).refuse_constant(answers)


def test_a_verifier_that_tells_apart_is_kept(trainer, rng):
    Verifier(trainer, 0.7).refuse_constant(batch(trainer, rng, trainer.teacher))


def test_few_or_equal_answers_prove_nothing(trainer, rng, monkeypatch):
    monkeypatch.setattr(trainer, "verify", lambda scenario, steps: constant(0.9))
    answers = batch(trainer, rng, FLAWLESS, MIN_BATCH)
    Verifier(trainer, 0.7).refuse_constant(answers[:-1])
    Verifier(trainer, 0.7).refuse_constant(answers[:1] * 50)
    with pytest.raises(GateError):
        Verifier(trainer, 0.7).refuse_constant(answers)
