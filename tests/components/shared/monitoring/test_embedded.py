"""The embedded metric format, by its specification."""

import pytest

from components.shared.monitoring.catalogue import OWN
from components.shared.monitoring.embedded import embedded


def test_a_line_names_each_metric_once_under_each_of_its_sets_of_dimensions():
    values = {"TokenMs": 9.5, "AnswerUSD": 0.001, "Unanswered": 0}
    found = embedded("SrlRlvr/x", values, {"Tier": "gold", "ModelType": "reasoning"}, 1_700_000_000.25)
    assert found["_aws"]["Timestamp"] == 1_700_000_000_250
    directives = {
        metric["Name"]: (directive["Namespace"], directive["Dimensions"], metric["Unit"])
        for directive in found["_aws"]["CloudWatchMetrics"]
        for metric in directive["Metrics"]
    }
    assert directives == {
        "TokenMs": ("SrlRlvr/x", [["Tier"]], "Milliseconds"),
        "AnswerUSD": ("SrlRlvr/x", [["Tier"], ["Tier", "ModelType"]], "None"),
        "Unanswered": ("SrlRlvr/x", [[], ["ModelType"]], "Count"),
    }
    assert values.items() <= found.items(), "the values are members of the line"
    assert (found["Tier"], found["ModelType"]) == ("gold", "reasoning")


def test_without_a_tier_only_what_needs_none_is_sent():
    found = embedded("n", {"TokenMs": 1.0, "Unanswered": 1}, {"ModelType": "reasoning"}, 0.0)
    (directive,) = found["_aws"]["CloudWatchMetrics"]
    assert directive["Metrics"] == [{"Name": "Unanswered", "Unit": OWN["Unanswered"].unit}]
    assert "TokenMs" not in found


def test_what_is_not_in_the_catalogue_is_not_sent():
    with pytest.raises(KeyError):
        embedded("n", {"Forgotten": 1.0}, {}, 0.0)
