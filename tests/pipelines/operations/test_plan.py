"""What a plan says of a definition, when it is refused, and that the plan offered in its place is accepted."""

import ast
import json
import re
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from components.shared.contracts.records import Outcome, Tier
from components.shared.contracts.stage import Report
from components.shared.storage.artifacts import write_text
from components.shared.storage.paths import PROJECT
from pipelines.engines.run_folder import RunFolder, RunState, TaskState, TaskStatus
from pipelines.operations import memory
from pipelines.operations.deploy import Deployment
from pipelines.operations.plan import POLL_SECONDS, TRANSITIONS_A_POLL, TRANSITIONS_BESIDE, make_plan


@pytest.fixture
def plan(srl_rlvr, configs):
    """The plan as data, with the command's exit code."""

    def made(*arguments):
        code, out, err = srl_rlvr("plan", *arguments, "--json")
        assert code in (0, 3), err
        return code, json.loads(out)

    return made


def change(file, **values):
    """Set dotted keys of a YAML file."""
    text = yaml.safe_load(file.read_text())
    for path, value in values.items():
        *parents, last = path.split(".")
        place = text
        for part in parents:
            place = place.setdefault(part, {})
        place[last] = value
    file.write_text(yaml.safe_dump(text))


def step(found, name):
    return next(item for item in found["steps"] if item["step"] == name)


def test_every_step_has_its_machines_hours_and_price(plan):
    code, found = plan("post_training", "--tier", "gold")
    assert code == 0 and found["accepted"]
    srl = step(found, "srl")
    assert (srl["instance"], srl["count"], srl["spot"]) == ("ml.g6.12xlarge", 1, True)
    assert (srl["hours_expected"], srl["hours_at_most"]) == (3.75, 10)
    assert srl["hours_from"] == "expected: configs/tiers/gold.yaml"
    assert srl["usd_at_most"] == 57.5
    assert srl["usd_expected"] == pytest.approx(3.75 * 5.75 * 0.4, abs=0.01)
    assert found["quotas_instances"]["ml.g6.12xlarge for spot training job usage"] == 1
    assert found["usd_at_most"] == pytest.approx(sum(s["usd_at_most"] for s in found["steps"]), abs=0.05)
    data = sum(
        step(found, name)["usd_at_most"] for name in ("trajectory-generation", "verification", "data-validation")
    )
    assert found["on_demand_usd_at_most"] == pytest.approx(found["usd_at_most"] - data, abs=0.05), (
        "Spot's ceiling is its price, and the data is there"
    )
    assert found["budgets"]["gold"]["usd_at_limits"] < found["usd_at_most"]
    assert "0 runs" in found["skip_gate"] and found["skip_gate"].startswith("not skipped")


def test_the_tables_say_the_same(srl_rlvr, configs):
    code, out, _ = srl_rlvr("plan", "post_training", "--tier", "silver")
    assert code == 0
    assert re.search(r"rlvr +1 p5\.48xlarge Spot +12\.0, 12\.0 +471\.84, 1,179\.60", out)
    assert "prices of 2026-11-01" in out and "budget 3,000 USD" in out


def test_nightly_counts_every_tier_against_its_own_budget(plan):
    _, found = plan("nightly")
    assert found["budgets"].keys() == {"bronze", "silver", "gold"}
    assert {s["tier"] for s in found["steps"]} == {"bronze", "silver", "gold"}


def test_a_month_is_every_model_types_nights_and_its_weekly_bronze(plan):
    """By hand: 730 hours are 30.4 nights and 4.35 weeks."""
    limits, expected = {}, {}
    for dag, tier in (
        ("post_training", "bronze"),
        *((d, t) for d in ("post_training", "distillation") for t in ("silver", "gold")),
    ):
        _, found = plan(dag, "--tier", tier)
        assert found["month"] is None
        times = 730 / 24 / (7 if tier == "bronze" else 1)
        limits[dag, tier] = times * found["budgets"][tier]["usd_at_limits"]
        expected[dag, tier] = times * found["usd_expected"]
    code, found = plan("nightly")
    month = found["month"]
    assert (code, len(month["model_types"])) == (0, 3)
    assert month["usd_at_limits"] == pytest.approx(3 * sum(limits.values()), rel=1e-4)
    assert month["usd_expected"] == pytest.approx(3 * sum(expected.values()), rel=1e-4)
    assert month["usd_expected"] < month["usd_at_limits"] <= month["budget_usd"]


def test_a_month_over_its_budget_is_refused_with_what_would_do(plan, configs):
    prod = configs / "environments" / "prod.yaml"
    change(prod, **{"nights.monthly_budget_usd": 400_000})
    code, found = plan("nightly")
    assert (code, found["accepted"]) == (3, False)
    assert re.fullmatch(
        r"month: 548,\d{3} USD at the time limits, over the 400,000 USD of nights.monthly_budget_usd "
        r"\(configs/environments/prod.yaml\): raise it, or train 2 of its 3 model types",
        found["refusals"][0],
    )
    assert plan("post_training", "--tier", "gold")[0] == 0, "one run is none the worse"
    change(prod, **{"nights.monthly_budget_usd": 60_000})
    assert plan("nightly")[1]["refusals"][0].endswith("or lower the tiers' jobs.*.max_runtime_s")
    change(prod, **{"nights.scheduled": False})
    assert plan("nightly")[0] == 0, "nobody schedules it"


def test_what_the_plan_refuses_is_not_deployed(configs, tmp_path):
    def faults(**more):
        deployment = Deployment(environment="prod", build=tmp_path, configuration=tmp_path, **more)
        return deployment.faults(tmp_path / "runs")

    assert faults() == []
    change(configs / "environments" / "prod.yaml", **{"nights.monthly_budget_usd": 60_000})
    change(configs / "tiers" / "gold.yaml", **{"jobs.budget_usd": 70, "stages.srl.batch_size": 64})
    found = faults()
    assert any(
        "srl: Qwen/Qwen2.5-3B-Instruct needs" in fault and "see `srl-rlvr plan post_training --tier gold" in fault
        for fault in found
    )
    assert any("gold: 76 USD at the time limits, over its budget of 70 USD" in fault for fault in found)
    assert found[-1].startswith("month: ") and found[-1].endswith("see `srl-rlvr plan nightly --env prod`")
    assert faults(without_pipelines=True) == [], "a new account's first pass makes no pipeline"


def test_a_model_that_fits_no_machine_is_refused_and_no_plan_is_made_up(plan, configs):
    change(configs / "tiers" / "bronze.yaml", **{"base_model.name": "deepseek-ai/DeepSeek-V3.1"})
    code, found = plan("post_training", "--tier", "bronze")
    assert code == 3
    srl = step(found, "srl")["memory"]
    assert srl["processes"] == 32 and not srl["fits"]
    assert srl["needed_gib"] > 3 * 80
    assert found["refusals"][0].startswith("srl: deepseek-ai/DeepSeek-V3.1 needs ")
    assert found["nearest"] == {"bronze": None}


FAULTS = {
    "too many rows for the GPUs": {"stages.srl.batch_size": 64},
    "a strategy that splits nothing": {"jobs.training.strategy": "single"},
    "a probe and rows too many": {"stages.rlvr": {"accumulation": 8, "kl": {"probe_prompts": 16}}},
    "a budget that only Spot keeps to": {"jobs.training.spot_wait_s": None, "jobs.budget_usd": 90},
    "a model too large for the machine": {"base_model.name": "Qwen/Qwen2.5-7B-Instruct"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_nearest_plan_put_into_the_tiers_file_is_accepted(plan, configs, fault):
    file = configs / "tiers" / "gold.yaml"
    change(file, **FAULTS[fault])
    code, found = plan("post_training", "--tier", "gold")
    assert code == 3, found["steps"]
    near = found["nearest"]["gold"]
    assert near is not None and near["changes"]
    for line in near["changes"]:
        key, value, hours = re.fullmatch(r"([\w.]+)=(\S+)(?: \(time limit ([\d.]+) h\))?", line).groups()
        change(file, **{key: yaml.safe_load(value)})
        if hours:
            stage = key.rsplit(".", 1)[0]
            change(file, **{f"{stage}.max_runtime_s": round(float(hours) * 3600), f"{stage}.expected_runtime_s": None})
    code, after = plan("post_training", "--tier", "gold")
    assert (code, after["refusals"]) == (0, [])
    assert after["budgets"]["gold"]["usd_at_limits"] == pytest.approx(near["usd_at_limits"], rel=0.02)


def test_a_budget_that_nothing_keeps_to_has_no_nearest_plan(plan, configs):
    change(configs / "tiers" / "gold.yaml", **{"jobs.budget_usd": 1})
    code, found = plan("post_training", "--tier", "gold")
    assert (code, found["nearest"]) == (3, {"gold": None})
    assert "over its budget of 1 USD" in found["refusals"][0]


def finished_run(tmp_path, number, *, hours, gain, accepted=True):
    """A run on SageMaker as its folder tells of it."""
    folder = tmp_path / "runs" / f"run-{number}"
    gains = {"champion": {"mean": gain, "low": gain, "high": gain, "n": 9}}
    details = {"srl": {}, "evaluation": {"gains": gains, "accepted": "candidate" if accepted else "champion"}}
    tasks = {}
    for stage, seconds in (("srl", hours * 3600), ("evaluation", 3600)):
        where = f"artifacts/{stage}/report"
        report = Report(stage=stage, summary="", details=details[stage])
        write_text(folder / where / "report.json", report.model_dump_json())
        outputs = {"report": f"run-{number}/{where}"}
        tasks[stage] = TaskState(stage=stage, seconds=seconds, status=TaskStatus.DONE, outputs=outputs)
    state = RunState(
        run_id=f"run-{number}",
        dag="post_training",
        engine="sagemaker",
        environment="prod",
        tier=Tier.GOLD,
        parameters={"model_type": "npc_dialogue"},
        tracking_uri="sqlite:///x",
        started=datetime(2026, 11, 1, tzinfo=UTC) + timedelta(days=number),
        outcome=Outcome.REGISTERED if accepted else Outcome.REFUSED,
        tasks=tasks,
    )
    RunFolder(folder, state).change()


def test_hours_are_those_that_runs_measured(plan, tmp_path):
    for number, hours in enumerate((2.0, 2.5, 6.0)):
        finished_run(tmp_path, number, hours=hours, gain=0.02)
    srl = step(plan("post_training", "--tier", "gold")[1], "srl")
    assert (srl["hours_expected"], srl["hours_from"]) == (2.5, "measured: median of 3 runs")
    assert step(plan("post_training", "--tier", "silver")[1], "srl")["hours_from"].startswith("its time limit")


def test_what_gains_cost_decides_whether_the_next_run_is_worth_it(plan, tmp_path, configs):
    """Three runs of 3 h together at 5.75 USD and an evaluation each; gains counted only where the gate accepted."""
    for number, accepted in enumerate((True, False, True)):
        finished_run(tmp_path, number, hours=2, gain=0.02, accepted=accepted)
    code, found = plan("post_training", "--tier", "gold")
    assert code == 0 and "jobs.max_usd_per_point sets no limit" in found["skip_gate"]
    usd_per_point = 3 * 3 * 5.75 / (2 * 0.02 / 0.01)
    assert f"{usd_per_point:,.0f} USD for a hundredth" in found["skip_gate"]
    change(configs / "tiers" / "gold.yaml", **{"jobs.max_usd_per_point": 3.0})
    code, found = plan("post_training", "--tier", "gold")
    assert code == 3 and found["refusals"][0].startswith("skip: the last 3 runs cost 13 USD for a hundredth of score")
    change(configs / "tiers" / "gold.yaml", **{"jobs.max_usd_per_point": 30.0})
    assert plan("post_training", "--tier", "gold")[0] == 0


def test_two_runs_are_too_few_to_skip_by(plan, tmp_path, configs):
    change(configs / "tiers" / "gold.yaml", **{"jobs.max_usd_per_point": 0.01})
    for number in range(2):
        finished_run(tmp_path, number, hours=9, gain=0.0)
    code, found = plan("post_training", "--tier", "gold")
    assert code == 0 and "2 runs with measured cost and gain, too few" in found["skip_gate"]


BAD = [
    (["plan", "post_training", "--tier", "glod"], {}, "unknown tier 'glod': did you mean 'gold'?"),
    (["plan", "--env", "local"], {}, "environment 'local' names no AWS account: add `sagemaker` to"),
    (
        ["plan", "post_training", "--tier", "gold"],
        {"environments/prod.yaml": {"sagemaker.region": "eu-west-1"}},
        "srl: ml.g6.12xlarge is not offered in eu-west-1",
    ),
    (
        ["plan", "post_training", "--tier", "gold"],
        {"environments/prod.yaml": {"sagemaker.account_id": "12345"}},
        "account_id = '12345': String should match pattern",
    ),
    (
        ["plan", "post_training", "--tier", "gold"],
        {"environments/prod.yaml": {"sagemaker.account_id": "999988887777"}},
        "is of another account than 999988887777: put its role",
    ),
    (["plan", "post_training", "--tier", "gold", "--set", "srl.steps=0"], {}, "srl.steps = 0: Input should be greater"),
    (["plan", "post_training", "--tier", "gold", "--set", "threshold=7"], {}, "threshold = 7"),
    (
        ["plan", "post_training", "--tier", "gold"],
        {"tiers/gold.yaml": {"jobs.training.instance_count": 0}},
        "jobs.training.instance_count = 0: Input should be greater than or equal to 1",
    ),
    (
        ["plan", "post_training", "--tier", "gold"],
        {"tiers/gold.yaml": {"jobs.training.expected_runtime_s": 99999}},
        "expected_runtime_s = 99999 is above max_runtime_s = 36000: it would be stopped before it is done",
    ),
    (
        ["plan", "post_training", "--tier", "gold"],
        {"tiers/gold.yaml": {"base_model.name": "Qwen/Qwen2.5-3B"}},
        "unknown base model 'Qwen/Qwen2.5-3B': did you mean 'Qwen/Qwen2.5-3B-Instruct'?",
    ),
    (
        ["plan", "post_training", "--tier", "gold"],
        {"prices.yaml": {"instances": {"local": {"usd_per_hour": 0, "source": "x"}}}},
        "unknown price of an instance type 'ml.m5.2xlarge'",
    ),
]


@pytest.mark.parametrize(("arguments", "changes", "said"), BAD)
def test_bad_input_is_one_line_and_nothing_is_created(srl_rlvr, configs, tmp_path, arguments, changes, said):
    for file, values in changes.items():
        change(configs / file, **values)
    code, out, err = srl_rlvr(*arguments)
    assert (code, out) == (2, "")
    assert said in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def constant(file, name):
    """A constant of a module that imports torch, without importing it."""
    for node in ast.parse((PROJECT / file).read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise AssertionError(name)


def test_what_the_memory_model_takes_from_the_trainers_is_what_they_do():
    tree = ast.parse((PROJECT / "components/shared/training/rollouts.py").read_text())
    (complete,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "complete")
    names = [argument.arg for argument in complete.args.kwonlyargs]
    assert ast.literal_eval(complete.args.kw_defaults[names.index("batch_size")]) == memory.GENERATION_ROWS


def test_transitions_are_those_of_the_nights_machine():
    machine = json.loads((PROJECT / "step_functions" / "training_run.asl.json").read_text())
    states = machine["States"]["Guarded"]["Branches"][0]["States"]
    loop, name = ["Pause"], "Look"
    while name != "Pause":
        loop.append(name)
        name = states[name].get("Next", states[name].get("Default"))
    assert len(loop) == TRANSITIONS_A_POLL
    # The longest way to a promoted version, counted from outside: no more states than there are beside the loop.
    assert TRANSITIONS_BESIDE >= 30
    polled = dict(re.findall(r"'(\w+)': \{'poll_s': (\d+)", json.dumps(machine)))
    assert {tier: int(polled[tier]) for tier in polled} == {str(tier): s for tier, s in POLL_SECONDS.items()}


def test_an_answered_budget_is_the_one_that_the_night_falls_back_under(configs, tmp_path):
    """The night compares the second definition's ceiling, which Terraform sums up, with the same budget."""
    made = make_plan("post_training", "prod", Tier.SILVER, tmp_path)
    assert made.on_demand_usd_at_most <= made.budgets_usd[Tier.SILVER], "silver may fall back"
    assert make_plan("post_training", "prod", Tier.BRONZE, tmp_path).on_demand_usd_at_most is None, "it is on demand"


def candidate(policy, tier, instance, usd, tokens_per_s):
    return {
        "benchmark": {
            "model_type": "npc_dialogue", "tier": tier, "trainer": "npc_dialogue", "base_model": "b", "policy": policy,
            "quality": 0.9, "quality_low": 0.88, "samples": 400, "quality_by_complexity": [0.95, 0.85],
            "usd_per_million_input_tokens": 1, "usd_per_million_output_tokens": 2, "first_token_ms": 40, "token_ms": 10,
            "completion_tokens": 100,
        },
        "measured": {
            "model_type": "npc_dialogue", "tier": tier, "policy": policy, "base_model": "b", "parameters": 3_000_000_000,
            "instance": instance, "input_tokens_per_s": 10 * tokens_per_s, "output_tokens_per_s": tokens_per_s,
            "first_token_ms": 40, "token_ms": 10, "completion_tokens": 100, "samples": 400,
        },
        "training_usd": usd,
    }  # fmt: skip


def test_break_even_in_requests_and_months(srl_rlvr, tmp_path):
    """By hand: gold answers 100 tokens at 1,000 a second and half use for 5.75 / 3600 x 0.2 s + its prompt, and so on."""
    file = tmp_path / "question.yaml"
    question = {
        "option": candidate("a" * 64, "gold", "ml.g6.12xlarge", 118.0, 1000),
        "baseline": candidate("b" * 64, "silver", "ml.p5.48xlarge", 0, 4000),
        "traffic": {"requests_a_month": 1_000_000, "input_tokens": 400, "output_tokens": 100, "utilisation": 0.5},
    }
    file.write_text(yaml.safe_dump(question))
    code, out, _ = srl_rlvr("plan", "--break-even", str(file), "--json")
    found = json.loads(out)
    gold, silver = (usd / 3600 * (400 / (10 * rate) + 100 / rate) / 0.5 for usd, rate in ((5.75, 1000), (98.3, 4000)))
    assert code == 0
    assert found["break_even_requests"] == pytest.approx(118 / (silver - gold))
    assert found["break_even_months"] == pytest.approx(found["break_even_requests"] / 1e6)
    code, out, _ = srl_rlvr("plan", "--break-even", str(file))
    assert "training pays for itself after" in out and "requests / month" in out
    code, _, err = srl_rlvr("plan", "--break-even", str(tmp_path / "none.yaml"))
    assert code == 2 and err.count("\n") == 1
