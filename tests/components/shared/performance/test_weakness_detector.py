"""The detector finds what was planted, and hardly anything where nothing was."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact

from components.shared.contracts.errors import GateError
from components.shared.contracts.records import Scenario, Split
from components.shared.contracts.weakness import Checked, Evaluated, WeaknessReport
from components.shared.performance.failure_trends import trends
from components.shared.performance.proportions import cochran_armitage, wilson
from components.shared.performance.scoring import Scores
from components.shared.performance.weakness_detector import _slices, _worst_parent, detect, evaluated

MANNERS, MOODS, RELATIONS = ("ask", "beg", "threat"), ("calm", "angry"), ("kin", "foe", "new")


def answers(seed, chance, rule="no-leak", count=400, accepted=lambda _: 0.2):
    """`count` answers; `chance` says how likely the candidate fails with these traits, `accepted` the champion."""
    rng = random.Random(seed)
    found = []
    for i in range(count):
        traits = {"manner": rng.choice(MANNERS), "mood": rng.choice(MOODS), "relation": rng.choice(RELATIONS)}
        difficulty = rng.random()
        outcomes = {}
        for role, how in (("candidate", chance), ("champion", accepted)):
            failed = rng.random() < how({**traits, "difficulty": difficulty})
            faults = (rule, f"{rule}-too") if failed else ()
            outcomes[role] = Checked(score=1.0 - 0.6 * failed, correct=not failed, faults=faults)
        found.append(Evaluated(scenario=f"s{i:04}", traits=traits, difficulty=difficulty, outcomes=outcomes))
    return found


def found_in(rows):
    return detect(rows, model_type="toy", policy="p", role="candidate", accepted="champion")


def test_a_planted_weakness_is_found_with_its_evidence_and_nothing_beside_it():
    report = found_in(answers(1, lambda t: 0.7 if t["manner"] == "threat" else 0.1))
    (weakness,) = report.weaknesses
    assert (weakness.name, weakness.state) == ("manner threat", {"manner": "threat"})
    assert weakness.failure_rate == pytest.approx(0.7, abs=0.1) and weakness.elsewhere == pytest.approx(0.1, abs=0.05)
    assert list(weakness.rules) == ["no-leak", "no-leak-too"]
    assert len(weakness.scenarios) == 5


def test_a_weakness_of_two_traits_is_named_by_both():
    report = found_in(answers(2, lambda t: 0.9 if (t["mood"], t["relation"]) == ("angry", "foe") else 0.1))
    assert {"mood angry, relation foe"} <= {w.name for w in report.weaknesses}
    weakness = next(w for w in report.weaknesses if "," in w.name)
    assert weakness.state == {"mood": "angry", "relation": "foe"}


def test_hard_scenarios_are_a_slice_too():
    report = found_in(answers(3, lambda t: 0.8 if t["difficulty"] > 2 / 3 else 0.1))
    assert report.weaknesses[0].name == "hard"
    assert report.weaknesses[0].difficulty == (2 / 3, 1.0)


def test_where_nothing_is_wrong_in_particular_nights_are_quiet():
    quiet = [found_in(answers(seed, lambda _: 0.2, count=200)) for seed in range(60)]
    assert sum(bool(report.weaknesses) for report in quiet) <= 7
    assert sum(bool(report.degraded) for report in quiet) <= 7


def test_rules_that_are_broken_together_are_one_mode():
    rows = answers(4, lambda _: 0.3) + answers(5, lambda _: 0.1, rule="tone")
    first, second = found_in(rows).modes
    assert (first.rules, second.rules) == (("no-leak", "no-leak-too"), ("tone", "tone-too"))
    assert first.low < first.rate < first.high
    assert first.rate == first.count / len(rows)


def test_what_became_worse_is_said_and_what_became_better_is_not():
    worse = found_in(answers(6, lambda _: 0.4, accepted=lambda _: 0.1))
    assert "all scenarios" in {d.name for d in worse.degraded}
    everything = next(d for d in worse.degraded if d.name == "all scenarios")
    assert everything.now > everything.before and everything.worse > everything.better
    assert found_in(answers(6, lambda _: 0.1, accepted=lambda _: 0.4)).degraded == ()


def test_a_slice_that_became_worse_is_found_though_the_whole_did_not():
    before, now = (lambda t: 0.1 if t["manner"] == "beg" else 0.5), (lambda t: 0.8 if t["manner"] == "beg" else 0.15)
    names = {d.name for d in found_in(answers(7, now, accepted=before)).degraded}
    assert "manner beg" in names and "all scenarios" not in names


def test_an_empty_evaluation_is_refused():
    with pytest.raises(GateError, match="no evaluated answers"):
        found_in([])


def test_the_report_survives_its_file():
    report = found_in(answers(1, lambda t: 0.7 if t["manner"] == "threat" else 0.1))
    assert WeaknessReport.model_validate_json(report.model_dump_json()) == report


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_test_of_a_slice_is_fishers(seed):
    rows = answers(seed, lambda _: 0.3, count=80)
    failed_N = np.array([not a.outcomes["candidate"].correct for a in rows])
    cut = next(s for s in _slices(rows) if len(s.parents_N) == 1)
    inside_N = cut.members_N
    table = [
        [(failed_N & inside_N).sum(), (~failed_N & inside_N).sum()],
        [(failed_N & ~inside_N).sum(), (~failed_N & ~inside_N).sum()],
    ]
    assert _worst_parent(cut, failed_N)[0] == pytest.approx(fisher_exact(table, alternative="greater").pvalue)


def test_only_fields_that_sort_are_traits():
    states = [{"manner": MANNERS[i % 3], "line": f"words {i}", "world": "one", "facts": ["F1"]} for i in range(40)]
    scenarios = [
        Scenario(id=str(i), model_type="toy", group="g", split=Split.TEST, prompt=str(i), state=state, difficulty=0.5)
        for i, state in enumerate(states)
    ]
    ones = np.ones(40)
    scores = Scores(greedy=ones, sampled=ones, correct=ones, rewards=ones, answers=[""] * 40, faults=[()] * 40)
    rows = evaluated(scenarios, {"candidate": scores})
    assert rows[0].traits == {"manner": "ask"}
    assert rows[0].outcomes["candidate"] == Checked(score=1.0, correct=True, faults=())


def test_a_rising_failure_is_a_trend_and_noise_is_none():
    nights = [answers(seed, lambda _, seed=seed: 0.1 + 0.08 * seed) for seed in range(5)]
    first = trends(nights, "candidate")[0]
    assert first.direction == "rising" and first.p_value < 0.01
    assert first.rates == tuple(sorted(first.rates)) and len(first.low) == 5
    flat = [answers(seed, lambda _: 0.2) for seed in range(20, 25)]
    assert {t.direction for t in trends(flat, "candidate")} == {"none"}
    assert trends(nights[:1], "candidate") == []


def test_cochran_armitage_agrees_with_a_worked_example():
    # Agresti, Categorical Data Analysis (2002), 3.4.6: malformations by alcohol, equally spaced scores: z^2 = 1.83.
    z = cochran_armitage([48, 38, 5, 1, 1], [17114, 14502, 793, 127, 38])
    assert z**2 == pytest.approx(1.83, abs=0.01)


def test_wilson_stays_in_bounds():
    assert wilson(0, 20)[0] == 0.0 and wilson(20, 20)[1] == 1.0
