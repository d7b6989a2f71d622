"""Selection: what replaces what and why, and that the router follows."""

import random

import pytest

from components.shared.contracts.errors import GateError, PipelineError, UsageError
from components.shared.contracts.records import Tier
from components.shared.contracts.selection import SelectionTable
from components.shared.contracts.stage import ArtifactKind
from components.shared.contracts.weakness import Checked, Evaluated
from components.shared.performance.model_registry import ModelRegistry, Version
from components.shared.selection.model_selector import benchmark, benchmarks, calibration, recommended, select
from components.shared.selection.selection_history import SelectionHistory
from components.shared.serving.choice import ChoiceConfig
from components.shared.serving.selection_file import Selection
from components.shared.storage.artifacts import seal


def version(**scores):
    return Version(
        name="npc_dialogue-gold",
        number=1,
        policy_digest="a" * 64,
        aliases=(),
        tags={f"score.{name}": str(value) for name, value in scores.items()},
        source="",
        run="",
    )


def in_use(*found):
    return SelectionTable(benchmarks=found, calibrations=(), accepted_by="gate")


def policies(table):
    return [b.policy[0] for b in table.benchmarks]


def test_a_benchmark_is_the_registrys_score_at_the_lists_price(measured, prices):
    found = benchmark(version(student_greedy=0.9, student_greedy_low=0.88, scenarios=500.0), measured(), prices)
    assert (found.quality, found.quality_low, found.samples, found.trainer) == (0.9, 0.88, 500, "distillation")
    # 3.6 USD an hour are 0.001 USD a second, in which 1,000 tokens are written and 10,000 read.
    assert found.usd_per_million_output_tokens == pytest.approx(1.0)
    assert found.usd_per_million_input_tokens == pytest.approx(0.1)


def test_a_score_without_a_bound_and_a_machine_without_a_price_are_refused(measured, prices):
    with pytest.raises(PipelineError, match="no held-out score with a lower bound"):
        benchmark(version(student_greedy=0.9), measured(), prices)
    with pytest.raises(UsageError, match="unknown price of an instance type 'smoll': did you mean 'small'"):
        scores = version(student_greedy=0.9, student_greedy_low=0.88, scenarios=500.0)
        benchmark(scores, measured(instance="smoll"), prices)


def test_what_is_measured_must_be_registered(measured, prices, tmp_path):
    registry = ModelRegistry(f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(UsageError, match="policy aaaaaaaaaaaa was measured but is not registered"):
        benchmarks(registry, [measured()], prices)


@pytest.mark.slow
def test_a_registered_policy_is_a_candidate(measured, prices, tmp_path):
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "config.json").write_text("{}")
    digest = seal(policy, ArtifactKind.POLICY).digest
    registry = ModelRegistry(f"sqlite:///{tmp_path / 'mlflow.db'}")
    tags = {"score.student_greedy": "0.9", "score.student_greedy_low": "0.88", "score.scenarios": "500.0"}
    registry.register("npc_dialogue-gold", policy, tags, "card")
    (found,) = benchmarks(registry, [measured().model_copy(update={"policy": digest})], prices)
    assert (found.policy, found.quality_low) == (digest, 0.88)


def test_only_a_surely_better_policy_replaces_the_one_in_use(scored):
    before = in_use(scored("a", 0.80))
    assert select([scored("a", 0.80), scored("b", 0.81)], before) is before
    table = select([scored("a", 0.80), scored("b", 0.83)], before)
    assert policies(table) == ["b"]
    assert table.replaces == before.version and table.accepted_by is None
    (reason,) = table.reasons
    assert reason.startswith(
        "npc_dialogue gold: surely better: bbbbbbbbbbbb (base, distillation; quality 0.830, at least"
    )
    assert "instead of aaaaaaaaaaaa" in reason


def test_a_cheaper_policy_of_nearly_the_quality_replaces_it_and_a_worse_one_does_not(scored):
    before = in_use(scored("a", 0.80, usd=10.0))
    table = select([scored("b", 0.80, usd=4.0, half=0.01)], before)
    assert policies(table) == ["b"] and "60% cheaper" in table.reasons[0]
    assert select([scored("b", 0.79, usd=1.0, half=0.02)], before) is before
    assert select([scored("b", 0.80, usd=9.5, half=0.01)], before) is before


def test_a_new_measurement_of_the_policy_in_use_counts(scored):
    before = in_use(scored("a", 0.80))
    slow = scored("a", 0.80, token_ms=20.0)
    table = select([slow, scored("b", 0.7)], before)
    assert policies(table) == ["b"] and "takes 20 ms a token, 16 allowed" in table.reasons[0]


def test_where_nothing_may_serve_nothing_is_proposed(scored):
    with pytest.raises(GateError, match="was scored on 30 scenarios, 100 needed"):
        select([scored(samples=30)])
    with pytest.raises(GateError, match="no candidates"):
        select([])


def test_tables_are_accepted_by_somebody_and_taken_back(scored, tmp_path):
    history = SelectionHistory(tmp_path / "history", tmp_path / "selection.json")
    first = select([scored("a", 0.80)])
    history.propose(first)
    assert history.current() is None
    history.accept(first.version, "gate")
    selection = Selection(tmp_path / "selection.json")
    assert selection.benchmarks("npc_dialogue")[Tier.GOLD].policy[0] == "a"

    second = select([scored("b", 0.9)], history.current())
    history.propose(second)
    assert history.accept(second.version, "ada").accepted_by == "ada"
    assert selection.refresh() and selection.benchmarks("npc_dialogue")[Tier.GOLD].policy[0] == "b"
    assert history.revert("ada").version == first.version
    assert selection.refresh() and selection.benchmarks("npc_dialogue")[Tier.GOLD].policy[0] == "a"


def test_a_proposal_against_an_older_table_is_stale(scored, tmp_path):
    history = SelectionHistory(tmp_path / "history", tmp_path / "selection.json")
    first = select([scored("a", 0.80)])
    history.propose(first)
    history.accept(first.version, "gate")
    one, other = (select([scored(p, 0.9)], first) for p in "bc")
    for table in (one, other):
        history.propose(table)
    history.accept(one.version, "gate")
    with pytest.raises(GateError, match=f"{one.version} is in effect: select again"):
        history.accept(other.version, "gate")
    with pytest.raises(UsageError, match="nothing to go back to"):
        SelectionHistory(tmp_path / "history", tmp_path / "none.json").revert("ada")


def test_a_changed_benchmark_changes_the_recommended_tier(scored):
    gold, bronze = scored("a", 0.2, usd=1.0), scored("b", 0.95, usd=20.0, tier=Tier.BRONZE, token_ms=30.0)

    def best(*found):
        return recommended(in_use(*found), ChoiceConfig(), characters=400, max_tokens=64)["npc_dialogue"][0]

    assert best(gold, bronze).candidate.tier == Tier.BRONZE
    assert best(gold.model_copy(update={"quality": 0.9}), bronze).candidate.tier == Tier.GOLD


def test_complexity_is_calibrated_on_scenarios_that_tiers_share():
    rng = random.Random(0)
    prompts = {f"s{i}": f"why must {i} if not {i}? explain" if i % 2 else f"say the bell {i}" for i in range(200)}

    def answered(hard_score):
        return [
            Evaluated(
                scenario=key,
                traits={},
                difficulty=0.5,
                outcomes={"student": Checked(score=score, correct=score == 1.0, faults=())},
            )
            for key, text in prompts.items()
            for score in [hard_score if "why" in text and rng.random() < 0.9 else 1.0]
        ]

    answers = {Tier.GOLD: (answered(0.2), "student"), Tier.BRONZE: (answered(0.9), "student")}
    fitted, bins = calibration("npc_dialogue", prompts, answers)
    assert fitted.samples == 200
    assert bins[Tier.GOLD][0] > 0.9 > 0.5 > bins[Tier.GOLD][-1]
    assert bins[Tier.BRONZE][-1] > bins[Tier.GOLD][-1]
    with pytest.raises(GateError, match="1 tiers share 200 scenarios"):
        calibration("npc_dialogue", prompts, {Tier.GOLD: answers[Tier.GOLD]})
