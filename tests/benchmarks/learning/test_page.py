import pytest

from benchmarks.learning.page import write_page
from benchmarks.learning.plan import ARMS, LEARN
from benchmarks.learning.results import ArmResult, Held, Kept, write_result
from benchmarks.learning.search import RLVR_SETTINGS, RLVRTrial
from components.shared.contracts.errors import CorruptArtifact, PipelineError


@pytest.fixture
def page(tmp_path):
    """Writes results with the given points, by arm and seed, and returns the page made of them."""

    def make(points, identity="0"):
        for arm, by_seed in points.items():
            for seed, score in by_seed.items():
                write_result(tmp_path / "results", result(arm, seed, score))
        write_page(tmp_path / "results", tmp_path / "docs", lambda job: identity)
        return (tmp_path / "docs" / "learning.md").read_text()

    return make


def result(arm, seed, points):
    trains = ARMS[arm].stage is not None
    return ArmResult(
        model_type="npc_dialogue",
        seed=seed,
        arm=arm,
        identity="0",
        stage_cpu_seconds=90.0 * trains,
        cpu_seconds=90.0 * trains,
        updates=50 * trains,
        highest_kl=0.09 if trains else None,
        test=Held(score=points / 100, correct=0.1, sampled=0.1, reward=0.2, scenarios=100),
        kept={"reasoning": Kept(accuracy=0.07, score=0.17, nll=0.346, tasks=200)},
        curves={"kl_probe": [(1, 0.01), (2, 0.02)], "rollout_reward": [(1, 0.3), (2, 0.4)]} if trains else {},
    )


def test_a_whole_set_has_means_paired_gains_and_verdicts(page, tmp_path):
    text = page({arm: {s: 20.0 + 10 * k + s for s in LEARN.seeds} for k, arm in enumerate(LEARN.arms)})
    assert "Partial" not in text
    assert "| base | 3 | 22.0 ± 2.5 |" in text
    assert "| SRL against base | 3 | +30.0 ± 0.0 |" in text
    assert "| SRL over base: +20 % | +136.6 ± 15.4 % | shown |" in text
    assert "| SRL → RLVR over SRL: +10 % | +57.7 ± 2.8 % | shown |" in text
    assert (tmp_path / "docs" / "images" / "learning-npc_dialogue.svg").read_text().rstrip().endswith("</svg>")


def test_what_is_missing_is_said_and_one_seed_shows_nothing(page):
    text = page({"base": {1: 25.0}, "srl": {1: 50.0, 2: 52.0}})
    assert "**Partial:** 3 of 24 results of `make learn` are there." in text
    assert "base on seed 2" in text and "SRL on seed 3" in text and "SRL on seed 2" not in text
    assert "| SRL over base: +20 % | +100.0 % | on one seed, which shows nothing |" in text
    assert "| SRL → RLVR over SRL: +10 % | - | not measured |" in text


def test_a_loss_is_not_called_a_gain(page):
    text = page({"sft_rlvr": {1: 60.0, 2: 61.0}, "srl_rlvr": {1: 50.0, 2: 51.0}})
    assert "| SRL → RLVR over SFT → RLVR: better | -16.5 ± 1.7 % | not found |" in text


def test_results_of_another_configuration_are_counted(page):
    assert "another configuration" not in page({"base": {1: 25.0}})
    assert "1 of 1 results were measured with another configuration" in page({}, identity="1")


def test_the_same_results_give_the_same_bytes(page, tmp_path):
    svg = tmp_path / "docs" / "images" / "learning-npc_dialogue.svg"
    first = page({"base": {1: 25.0}, "srl": {1: 50.0}})
    figure = svg.read_bytes()
    assert page({}) == first and svg.read_bytes() == figure


def test_no_result_and_a_spoilt_one_are_one_line(page, tmp_path):
    with pytest.raises(PipelineError, match="no results in"):
        page({})
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "npc_dialogue-1-base.json").write_text("{")
    with pytest.raises(CorruptArtifact, match=r"npc_dialogue-1-base\.json is not a result"):
        page({})


def test_what_was_tried_stands_by_settings_with_its_seeds_and_what_is_tried_no_more_does_not(page, tmp_path):
    folder = tmp_path / "results" / "search-rlvr"
    folder.mkdir(parents=True)
    settings = list(RLVR_SETTINGS)[1]
    for name, seed, best in ((settings, 102, 0.75), (settings, 101, 0.65), ("of old", 101, 0.99)):
        trial = RLVRTrial(settings=name, seed=seed, start=0.5, best=best, last=0.6, cpu_seconds=80.0)
        (folder / f"{name}-{seed}.json").write_text(trial.model_dump_json())
    text = page({"base": {1: 25.0}})
    assert f"| {settings} | 2 | 50.0 | 70.0 (65.0, 75.0) | 80 |" in text and "of old" not in text
