"""Configuration: which layer wins, and what a wrong word gets for an answer."""

import pytest
import yaml

from components.catalogue import spec_of
from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Tier
from components.shared.storage.paths import PROJECT
from pipelines.configuration import load_settings, parse_assignments

TIER = """
stages:
  srl: {steps: 7, batch_size: 8}
  distillation: {batch_size: 9}
"""
ENVIRONMENT = """
image_registry: somewhere
image_tag: "1"
policies: {gold: models/gold}
parameters: {min_gain: 0.5}
stages:
  srl: {steps: 70}
  trajectory_generation:
    counts: {train: 33}
  distill_gold: {batch_size: 11}
model_types:
  reasoning:
    stages:
      srl: {steps: 700}
"""


@pytest.fixture
def configs(tmp_path, monkeypatch):
    jobs = yaml.safe_load((PROJECT / "configs" / "tiers" / "gold.yaml").read_text())["jobs"]
    tiers = {f"tiers/{tier}.yaml": TIER + yaml.safe_dump({"jobs": jobs}) for tier in Tier}
    for name, text in {"environments/here.yaml": ENVIRONMENT, **tiers}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("SRL_RLVR_CONFIGS", str(tmp_path))
    return tmp_path


def config(settings, stage, task=None):
    return settings.config(task or stage, spec_of(stage), {}, {})


def test_each_layer_beats_the_one_before(configs):
    srl = config(load_settings("here"), "srl")
    assert (srl.batch_size, srl.steps) == (8, 70)
    assert srl.learning_rate == spec_of("srl").config().learning_rate
    assert config(load_settings("here", assignments=["srl.steps=71"]), "srl").steps == 71


def test_a_model_types_word_beats_its_layers_general_word_and_only_for_that_type(configs):
    assert config(load_settings("here", assignments=["model_type=reasoning"]), "srl").steps == 700
    assert config(load_settings("here", assignments=["model_type=reasoning", "srl.steps=1"]), "srl").steps == 1


def test_a_tasks_word_beats_its_stages(configs):
    settings = load_settings("here")
    assert config(settings, "distillation", "distill_gold").batch_size == 11
    assert config(settings, "distillation", "distill_silver").batch_size == 9


def test_nested_keys_are_merged(configs):
    counts = config(
        load_settings("here", assignments=["trajectory_generation.counts.test=44"]), "trajectory_generation"
    ).counts
    assert (counts.train, counts.test) == (33, 44)
    assert counts.validation == spec_of("trajectory_generation").config().counts.validation


def test_parameters_take_their_types_from_the_specs(configs):
    defaults = load_settings("here", assignments=["seed=3", "threshold=1"]).defaults
    assert defaults["seed"] == 3
    assert defaults["threshold"] == 1.0 and isinstance(defaults["threshold"], float)
    assert defaults["min_gain"] == 0.5


@pytest.mark.parametrize(
    ("assignment", "answer"),
    [
        ("srl.step=3", "unknown key of srl 'step': did you mean 'steps'?"),
        ("srl.steps=0", "srl.steps = 0: Input should be greater than or equal to 1"),
        ("srl.steps=many", "srl.steps = 'many'"),
        ("trajectory_generation.counts.tran=3", "did you mean 'train'?"),
    ],
)
def test_a_wrong_key_or_value_is_named(configs, assignment, answer):
    settings = load_settings("here", assignments=[assignment])
    with pytest.raises(UsageError, match="(?s)" + answer.replace("?", r"\?")):
        config(settings, assignment.partition(".")[0])


def test_what_the_dag_or_the_pipeline_decides_cannot_be_set_for_a_stage(configs):
    settings = load_settings("here", assignments=["distillation.tier=gold", "srl.seed=4"])
    with pytest.raises(UsageError, match="decided by the DAG"):
        settings.config("distill_silver", spec_of("distillation"), {"tier": "silver"}, {})
    with pytest.raises(UsageError, match="write --set seed=4"):
        settings.config("srl", spec_of("srl"), {}, {"seed": 0})


@pytest.mark.parametrize("assignment", ["srl.steps", "=3", "srl.steps=[1"])
def test_a_malformed_assignment_is_refused(assignment):
    with pytest.raises(UsageError, match="--set"):
        parse_assignments([assignment])


def test_an_unknown_environment_gets_the_nearest(configs):
    with pytest.raises(UsageError, match="unknown environment 'hre': did you mean 'here'"):
        load_settings("hre")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("stages:\n  srl: {steps: 3", r"here\.yaml:\d+:\d+: .*: mend the YAML there"),
        ("- a\n", r"here\.yaml:1: a list, not a mapping"),
        (ENVIRONMENT + "image_tga: x\n", "did you mean 'image_tag'"),
        (ENVIRONMENT + "image_tag: '2'\n", r"here\.yaml:\d+:1: key 'image_tag' is given twice"),
        (
            ENVIRONMENT.replace("  srl: {steps: 70}", "  slr: {steps: 70}"),
            r"unknown stage in .*here\.yaml 'slr': did you mean 'srl'",
        ),
        (ENVIRONMENT.replace("min_gain: 0.5", "min_gian: 0.5"), "did you mean 'min_gain'"),
    ],
)
def test_a_fault_in_a_file_names_the_file(configs, text, answer):
    (configs / "environments" / "here.yaml").write_text(text)
    with pytest.raises(UsageError, match=answer):
        load_settings("here")


def test_a_missing_base_policy_is_named(configs):
    settings = load_settings("here")
    assert settings.uri("gold_base_uri", Tier.GOLD) == "models/gold"
    with pytest.raises(UsageError, match="names no base policy for bronze"):
        settings.uri("base_uri", Tier.BRONZE)


def test_the_account_that_pays_knows_what_its_teacher_costs_and_may_cost():
    spec = spec_of("trajectory_generation")
    config = load_settings("prod").config(spec.name, spec, {}, {})
    assert config.teacher.usd_per_million_prompt_tokens > 0 and config.teacher.usd_per_million_completion_tokens > 0
    assert config.budget.usd is not None
    # All scenarios three times, with prompts of 5,000 tokens and the longest answers, stay within it.
    asked = config.max_attempts * (config.counts.train + config.counts.validation)
    assert asked * config.teacher.usd(5000, config.teacher.max_tokens) < config.budget.usd
