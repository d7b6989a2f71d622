import pytest

from components.shared.collaboration.rules_engine import RulesEngine
from components.shared.collaboration.world import Rule, load_world
from components.shared.contracts.errors import UsageError


def rule(id="calm", severity="graded", weight=1.0, when="true", must="action.tone == 'warm'", **fields):
    example = {"given": {"action": {"tone": "warm"}}, "holds": True}
    fields = {"message": f"{id} is broken", "examples": (example,), "model_types": ("toy",), **fields}
    return Rule(id=id, source="toy.yaml:7", severity=severity, weight=weight, when=when, must=must, **fields)


def tone(value):
    return {"scenario": {}, "facts": [], "action": {"tone": value}}


@pytest.mark.parametrize("model_type", ["npc_dialogue", "story_generation"])
def test_every_example_beside_a_rule_comes_out_as_written(model_type):
    engine = RulesEngine(load_world("wrackmere").rules_for(model_type))
    assert engine.rules
    assert [f"{f.rule.source}: {f.rule.id} example {f.number} {f.found}" for f in engine.example_faults()] == []


def test_dialogue_rules_each_show_a_case_that_breaks_them():
    for given in load_world("wrackmere").rules_for("npc_dialogue"):
        assert {example.holds for example in given.examples} == {True, False}, given.id


def test_wrong_example_is_named():
    wrong = {"given": {"action": {"tone": "cold"}}, "holds": True}
    unreadable = {"given": {"action": {}}, "holds": False}
    good = {"given": {"action": {"tone": "cold"}}, "holds": False}
    faults = list(RulesEngine([rule(examples=(wrong, unreadable, good))]).example_faults())
    assert [fault.number for fault in faults] == [1, 2]
    assert faults[0].found == "is broken"
    assert "KeyError" in faults[1].found


def test_example_whose_condition_cannot_be_read_is_named():
    faults = list(RulesEngine([rule(when="facts.exists(f, f.n == 1)")]).example_faults())
    assert [fault.number for fault in faults] == [1]
    assert faults[0].found.startswith("cannot be evaluated: ")


def test_graded_score_is_the_share_of_weight_among_rules_that_apply():
    rules = [rule("a", weight=3.0), rule("b", must="action.tone != 'warm'"), rule("c", when="1 == 2", weight=50.0)]
    findings = RulesEngine(rules).evaluate(tone("warm"))
    assert findings.score == 0.75
    assert (findings.held, [b.rule for b in findings.broken], findings.silent) == (("a",), ["b"], ("c",))
    assert findings.broken[0].reason == "b is broken"


def test_broken_hard_rule_leaves_nothing():
    findings = RulesEngine([rule("a"), rule("b", severity="hard", must="false")]).evaluate(tone("warm"))
    assert findings.score == 0.0
    assert [broken.hard for broken in findings.broken] == [True]


@pytest.mark.parametrize(
    "expression",
    ["action.missing == 1", "action.tone > 3", "facts[4] == 1", "action.tone", "1 / 0 == 1", "nobody(action)", "null"],
)
@pytest.mark.parametrize("part", ["when", "must"])
def test_rule_that_cannot_be_evaluated_counts_as_broken(expression, part):
    findings = RulesEngine([rule(**{part: expression})]).evaluate(tone("warm"))
    assert findings.score == 0.0
    assert findings.broken[0].reason.startswith("cannot be evaluated: ")


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"must": "action.tone =="}, r"rule 'calm': must: 1:15: Syntax error"),
        ({"when": "(true"}, r"rule 'calm': when: 1:6: Syntax error"),
        ({"must": "actoin.tone == 'warm'"}, r"rule 'calm': must: unknown variable 'actoin'"),
    ],
)
def test_malformed_expression_names_place_rule_and_fault(fields, fault):
    with pytest.raises(UsageError, match=r"toy\.yaml:7: " + fault) as error:
        RulesEngine([rule(**fields)])
    assert "\n" not in str(error.value)


def test_macros_may_bind_names():
    engine = RulesEngine([rule(must="facts.all(one, one.n > 0) && facts.exists(other, other.n == 2)")])
    assert engine.evaluate({"facts": [{"n": 1}, {"n": 2}]}).score == 1.0


def test_same_id_twice_is_refused():
    with pytest.raises(UsageError, match="rule 'calm': first given at"):
        RulesEngine([rule(), rule()])


def test_version_follows_what_is_demanded_not_how_it_is_worded():
    version = RulesEngine([rule()]).version
    assert RulesEngine([rule(message="other words")]).version == version
    assert RulesEngine([rule(must="action.tone == 'cold'")]).version != version
    assert RulesEngine([rule(weight=2.0)]).version != version
    assert RulesEngine([rule(severity="hard")]).version != version
