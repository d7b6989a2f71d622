"""The card says what the files say, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.registration.model_card import ABSENT, Facts, cell, model_card, parameters, rows_table, section
from components.shared.contracts.records import Tier
from components.shared.contracts.stage import Report
from components.shared.storage.artifacts import read_manifest


@pytest.fixture
def card(make_policy, make_report):
    def write(**details):
        policy = make_policy(weights=(1.0, 2.0, 3.0), stage="rlvr", config={"seed": 1}, inputs={})
        report = Report(stage="evaluation", summary="", metrics={"candidate_greedy": 0.81234}, details=details)
        judged = {"dataset": "d" * 64, "champion": "c" * 64}
        evidence = make_report(report, stage="evaluation", config={"min_gain": 0.0}, inputs=judged)
        facts = Facts(
            model_type="npc_dialogue",
            tier=Tier.BRONZE,
            policy=policy,
            manifest=read_manifest(policy),
            evidence=read_manifest(evidence),
            report=report,
        )
        return model_card(facts)

    return write


def test_the_card_shows_gate_scores_with_intervals_data_and_lineage(card):
    interval = {"mean": 0.8, "low": 0.75, "high": 0.85, "n": 200}
    text = card(
        gate={"accepted": True, "margin": 0.05, "criteria": {"gain_over_champion": {"value": 0.05, "bound": 0.0}}},
        policies={"candidate": {"greedy": interval}},
        data={"counts": {"train_trajectories": 1500}, "world": "harbour"},
    )
    for line in (
        "# npc_dialogue-bronze",
        "| stored parameters | 3 |",
        "| accepted | true |",
        "| gain over champion | 0.05 | 0 |",
        "| candidate greedy | 0.8123 |",
        "| candidate | 0.8 [0.75, 0.85] (n = 200) |",
        "| train trajectories | 1500 |",
        f"| dataset | {'d' * 64} |",
        "- It was compared with champion cccccccccccc and the policies listed under Lineage, no others.",
    ):
        assert line in text.splitlines()


def test_what_was_not_measured_is_said(card):
    assert card().count(ABSENT) == 2, "gate and data"


def test_parameters_are_counted_from_the_files_header(make_policy):
    assert parameters(make_policy(weights=(1.0,) * 5) / "model.safetensors") == 5


def test_rows_may_lack_columns():
    assert rows_table([{"a": 1}, {"b": 2.5}]).splitlines() == ["| a | b |", "| --- | --- |", "| 1 |  |", "|  | 2.5 |"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_a_cell_never_breaks_its_row(value):
    text = cell(value)
    assert "\n" not in text
    assert text.count("|") == text.count("\\|")


@given(json_values)
def test_any_value_has_a_section(value):
    assert section(value)
