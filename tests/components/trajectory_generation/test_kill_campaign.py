"""kill -9 at random moments and at every write: nothing is lost, nothing comes twice, nothing recorded is asked again."""

import os

import pytest

from benchmarks.collaboration.kills import KILLS, Damage, campaign

WHOLE = os.environ.get("SRL_RLVR_CAMPAIGNS") == "whole"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with campaign(tmp_path_factory.mktemp("kills")) as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(run):
    return run.undisturbed()


@pytest.mark.slow
@pytest.mark.timeout(3600 if WHOLE else 300)
def test_a_kill_at_any_write_loses_nothing_and_repeats_nothing(run, undisturbed):
    before = run.damage.kills
    run.at_boundaries(undisturbed, stride=1 if WHOLE else 50)
    assert run.damage.kills > before and run.damage == Damage(kills=run.damage.kills)


@pytest.mark.slow
@pytest.mark.timeout(3600 if WHOLE else 300)
def test_kills_at_random_moments_lose_nothing_and_repeat_nothing(run, undisturbed):
    run.at_moments(undisturbed, KILLS if WHOLE else 3)
    assert run.damage == Damage(kills=run.damage.kills)


@pytest.mark.slow
def test_answers_that_a_record_forgets_are_seen_to_be_asked_for_again(run, undisturbed, monkeypatch):
    honest = run.stage

    def forgetful(folder, **kill):
        for file in folder.glob("requests.sqlite*"):
            file.unlink()
        return honest(folder, **kill)

    monkeypatch.setattr(run, "stage", forgetful)
    monkeypatch.setattr(run, "damage", Damage())
    run.series("forgetful", [{"kill_at": undisturbed.boundaries - 5}], undisturbed)
    assert run.damage.asked_again >= 10
