"""Production validation: every number is recomputed here from the same records by other means."""

import json
import math
import random
from statistics import quantiles

import pytest
from chromium import CHROMIUM, chromium

from components.shared.contracts.errors import CorruptArtifact, UsageError
from components.shared.contracts.records import Tier
from components.shared.contracts.selection import Benchmark, SelectionTable
from components.shared.selection.prices import load_prices
from components.shared.serving.canary import Arm, Canary, CanaryConfig, CanaryState, Metric, start
from components.shared.serving.choice import ChoiceConfig
from components.shared.serving.operations import ENDED, Ended
from components.shared.serving.traces import TraceWriter
from pipelines.engines.run_folder import TaskStatus
from pipelines.report.production import bill, latencies, production, rollouts, spot, whole_lines, write_production


def benchmark(tier, usd, quality=0.8):
    return Benchmark(
        model_type="npc_dialogue",
        tier=tier,
        trainer="distillation",
        base_model="base",
        policy=tier[0] * 64,
        quality=quality,
        quality_low=quality - 0.02,
        samples=500,
        quality_by_complexity=(quality,),
        usd_per_million_input_tokens=usd / 10,
        usd_per_million_output_tokens=usd,
        first_token_ms=20.0,
        token_ms=10.0,
        completion_tokens=40.0,
    )


TABLE = SelectionTable(
    benchmarks=(benchmark(Tier.BRONZE, 40.0, 0.9), benchmark(Tier.SILVER, 10.0, 0.85), benchmark(Tier.GOLD, 1.0)),
    calibrations=(),
    accepted_by="ada",
)


def decision(tier, usd, tokens=(100, 40), **fields):
    line = {"outcome": "answered", "table": TABLE.version, "model_type": "npc_dialogue", "tokens": tokens, "usd": usd}
    return json.dumps({**line, "hops": [{"tier": tier}], **fields})


def served(folder, requests=400):
    """A router's folder after a rollout that was worse, and its traffic."""
    draw = random.Random(0)
    traces = TraceWriter(folder / "traces")
    for i in range(requests):
        tier = Tier.GOLD if i % 4 else Tier.BRONZE
        traces.write(
            model_type="npc_dialogue",
            tier=tier,
            policy="p",
            prompt="who goes there?",
            completion="a friend",
            latency_ms=draw.uniform(50, 150) * (8 if tier == Tier.BRONZE else 1),
        )
    traces.close()
    canary = start(CanaryConfig(bake_s=1e9), "npc_dialogue@gold/new", 0.0)
    for session in range(2000):
        arm = canary.arm(str(session)) if session % 2 else Arm.CHALLENGER
        score = draw.random() * (0.8 if arm == Arm.CHALLENGER else 1.0)
        canary.observe(arm, str(session), error=False, latency_ms=draw.uniform(80, 120), score=score)
    canary.decide(1.0)
    ended = Ended(at=1.0, alias="npc_dialogue@gold", adapter="new", state=canary.state)
    (folder / ENDED).write_text(ended.model_dump_json() + "\n")
    return canary


def test_latency_is_that_of_the_traces(tmp_path):
    served(tmp_path)
    traces = [t for path in (tmp_path / "traces").iterdir() for t in whole_lines(path)]
    bronze, gold = latencies(traces)
    times = [t.latency_ms for t in traces if t.tier == Tier.GOLD]
    assert (gold.tier, gold.n, gold.score) == (Tier.GOLD, 300, None)
    assert gold.p50_ms == pytest.approx(sorted(times)[150], rel=0.02)
    assert gold.p95_ms == pytest.approx(quantiles(times, n=100, method="inclusive")[94])
    assert bronze.p50_ms > 4 * gold.p50_ms


def test_the_difference_of_a_rollout_has_the_interval_of_its_sessions(tmp_path):
    canary = served(tmp_path)
    (found,) = rollouts(tmp_path)
    assert (found.status, found.mark) == ("rolled_back", "bad")
    score = next(d for d in found.differences if d.metric == Metric.SCORE)
    sums = canary.state.sums[0][Metric.SCORE]
    arms = [sums[arm] for arm in (Arm.CHAMPION, Arm.CHALLENGER)]
    assert score.mean == pytest.approx(arms[1].mean - arms[0].mean)
    # One value a session: the plain standard error of two means.
    half = 1.96 * math.sqrt(sum((s.tt / s.n - s.mean**2) / s.n for s in arms))
    assert (score.high - score.low) / 2 == pytest.approx(half, rel=0.02)
    assert score.worse and not score.better
    latency = next(d for d in found.differences if d.metric == Metric.LATENCY)
    assert latency.low < 0 < latency.high and not latency.worse
    assert 80 < latency.champion < 120


def test_a_withdrawn_rollout_and_one_without_evidence_say_so(tmp_path):
    state = CanaryState(name="a", stage_began=0.0)
    (tmp_path / ENDED).write_text(Ended(at=1, alias="x@gold", adapter="a", state=state).model_dump_json() + "\n")
    (found,) = rollouts(tmp_path)
    assert (found.status, found.differences, found.sessions[Arm.CHAMPION]) == ("withdrawn", (), 0)


def test_a_better_error_rate_is_told_from_a_worse_one(tmp_path):
    canary = Canary(CanaryConfig(), CanaryState(name="a", stage_began=0.0))
    for i in range(1000):
        canary.observe(Arm.CHAMPION, f"a{i}", error=i % 5 == 0, latency_ms=1.0, score=None)
        canary.observe(Arm.CHALLENGER, f"b{i}", error=False, latency_ms=1.0, score=None)
    (tmp_path / ENDED).write_text(Ended(at=1, alias="x@gold", adapter="a", state=canary.state).model_dump_json() + "\n")
    (found,) = rollouts(tmp_path)
    error = next(d for d in found.differences if d.metric == Metric.ERROR)
    assert error.better and error.champion == 0.2


def test_savings_are_differences_of_bills_and_add_up():
    cheap, dear = 1.0 * (100 / 10 + 40) / 1e6, 40.0 * (100 / 10 + 40) / 1e6
    lines = ["no json", decision("gold", cheap), decision("gold", cheap), decision("bronze", dear)]
    lines += [decision("gold", 9.0, table="old"), json.dumps({"outcome": "unavailable"})]
    found = bill(lines, [TABLE], ChoiceConfig())
    assert (found.requests, found.unpriced, dict(found.tiers)) == (3, 1, {"gold": 2, "bronze": 1})
    assert found.largest == pytest.approx(3 * dear)
    assert found.paid == pytest.approx(2 * cheap + dear)
    assert found.distilled + found.routed == pytest.approx(found.largest - found.paid)
    assert found.fixed == pytest.approx(3 * cheap), "gold is worth most for an average prompt"
    assert found.routed < 0, "one prompt was given Bronze for its quality"


def test_spot_saves_what_was_not_billed(make_night):
    folder = make_night("one")
    assert spot([folder], load_prices()).runs == 0, "this machine is not billed"
    folder.change(engine="sagemaker")
    machine = {"instance": "ml.g6.12xlarge", "instance_count": 2, "machine_seconds": 7200.0, "billed_seconds": 1800.0}
    folder.change_task("srl", **machine)
    folder.change_task("evaluation", status=TaskStatus.CACHED, **machine)
    found = spot([folder], load_prices())
    hourly = 2 * load_prices().of("ml.g6.12xlarge").usd_per_hour
    assert (found.on_demand_usd, found.saved) == (pytest.approx(2 * hourly), pytest.approx(1.5 * hourly))


def test_a_day_of_what_was_shipped_is_read_as_a_routers_folder_is(tmp_path):
    served(tmp_path / "state")
    day = tmp_path / "2026-01-05"
    day.mkdir()
    (tmp_path / "state" / "traces").rename(day / "router-1")
    found = production(day, [], [], ChoiceConfig(), [])
    assert sum(latency.n for latency in found.latencies) == 400 and found.experiments == ()


def test_nothing_served_and_broken_files_are_one_line(tmp_path):
    with pytest.raises(UsageError, match="holds no traces and no rollouts"):
        production(tmp_path, [], [], ChoiceConfig(), [])
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "traces-000001.jsonl").write_text("{}\n")
    with pytest.raises(CorruptArtifact, match=r"traces-000001\.jsonl:1 is no trace"):
        production(tmp_path, [], [], ChoiceConfig(), [])
    (tmp_path / "rollouts.json").write_text("{")
    with pytest.raises(CorruptArtifact, match=r"rollouts\.json is malformed"):
        list(rollouts(tmp_path))


def test_the_command_writes_the_page(srl_rlvr, tmp_path):
    served(tmp_path / "serving")
    (tmp_path / "serving" / "decisions.jsonl").write_text(decision("gold", 1e-6) + "\n")
    code, out, err = srl_rlvr("report", "--production", "--serving", str(tmp_path / "serving"))
    assert code == 0, err
    assert out.strip().endswith("production.html")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install -y chromium")
def test_real_chromium_shows_it_whole_at_both_widths(tmp_path):
    served(tmp_path)
    lines = [decision("gold", 5e-5)] * 30 + [decision("bronze", 2e-3)] * 10
    page = write_production(production(tmp_path, lines, [TABLE], ChoiceConfig(), []), tmp_path / "production.html")
    with chromium(tmp_path / "profile") as tab:
        for width in (400, 1280):
            tab.open(page, width)
            assert tab.overflow() <= 0
        assert [c for c in tab.complaints if c["method"] != "Network.requestWillBeSent"] == []
