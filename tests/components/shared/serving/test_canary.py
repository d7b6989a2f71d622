import math

import boto3
import numpy as np
import pytest
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from components.shared.contracts.errors import UsageError
from components.shared.serving.canary import Arm, Canary, CanaryConfig, CanaryState, Metric, Status, start
from components.shared.serving.canary_sagemaker import guardrail, variant_weights
from components.shared.serving.canary_simulation import EFFECTS, Effect, Traffic, simulate_canary, table, wilson
from components.shared.serving.sequential_test import SessionSums, harm, log_likelihood_ratio

QUICK = CanaryConfig(shares=(0.05, 0.25, 0.5, 1.0), bake_s=60.0, min_requests=1)


def feed(canary, arm, count, *, error=False, latency_ms=100.0, score=None, session="s"):
    for i in range(count):
        canary.observe(arm, f"{session}{i}", error=error, latency_ms=latency_ms, score=score)


def test_a_session_keeps_its_arm_and_a_growing_share_only_adds_to_the_challenger():
    canary = start(QUICK, "npc@gold/npc-1", 0.0)
    shares, challengers = [], set()
    sessions = [f"session {i}" for i in range(4000)]
    for stage in range(4):
        now = {s for s in sessions if canary.arm(s) == Arm.CHALLENGER}
        assert challengers <= now
        challengers, shares = now, [*shares, len(now) / len(sessions)]
        feed(canary, Arm.CHALLENGER, 1)
        canary.decide(60.0 * (stage + 1))
    assert shares == pytest.approx([0.05, 0.25, 0.5, 1.0], abs=0.02)
    assert canary.status == Status.PROMOTED
    other = start(QUICK, "npc@gold/npc-2", 0.0)
    assert {s for s in sessions if other.arm(s) == Arm.CHALLENGER} != challengers


def test_a_stage_lasts_until_it_is_baked_and_has_been_asked():
    canary = start(CanaryConfig(bake_s=900.0, min_requests=50), "x", 0.0)
    feed(canary, Arm.CHALLENGER, 100)
    canary.decide(899.0)
    assert canary.share == 0.05
    canary.decide(900.0)
    assert canary.share == 0.25
    canary.decide(9000.0)
    assert canary.share == 0.25  # nobody has asked the challenger in this stage
    feed(canary, Arm.CHALLENGER, 50)
    canary.decide(9001.0)
    assert canary.share == 0.5


def test_more_than_ten_percent_errors_roll_back_at_once_without_waiting_for_a_decision():
    canary = start(CanaryConfig(), "x", 0.0)
    feed(canary, Arm.CHALLENGER, 27)
    for _ in range(3):
        canary.observe(Arm.CHALLENGER, "s", error=True, latency_ms=1.0, score=None)
    assert canary.status == Status.RUNNING  # 3 of 30 is not more than 10 %
    canary.observe(Arm.CHALLENGER, "s", error=True, latency_ms=1.0, score=None)
    assert (canary.status, canary.share) == (Status.ROLLED_BACK, 0.0)
    assert "4 of the latest 31 requests failed" in canary.reason


def test_the_champions_errors_do_not_count_against_the_challenger():
    canary = start(CanaryConfig(), "x", 0.0)
    feed(canary, Arm.CHAMPION, 100, error=True)
    feed(canary, Arm.CHALLENGER, 100)
    assert canary.decide(1.0) == Status.RUNNING


@pytest.mark.parametrize(
    ("metric", "champion", "challenger"),
    [
        (Metric.SCORE, {"score": 0.9}, {"score": 0.5}),
        (Metric.LATENCY, {"latency_ms": 100.0}, {"latency_ms": 300.0}),
    ],
)
def test_harm_on_any_metric_rolls_back_and_the_same_change_for_the_better_does_not(metric, champion, challenger):
    worse, better = start(CanaryConfig(), "x", 0.0), start(CanaryConfig(), "x", 0.0)
    for i in range(200):
        noise = {"score": {"score": 0.1 * (i % 2)}, "latency": {"latency_ms": 1.0 * (i % 7)}}[metric]
        one, other = ({k: v + noise[k] for k, v in arm.items()} for arm in (champion, challenger))
        base = {"error": False, "latency_ms": 100.0, "score": 0.5}
        worse.observe(Arm.CHAMPION, f"a{i}", **base | one)
        worse.observe(Arm.CHALLENGER, f"b{i}", **base | other)
        better.observe(Arm.CHAMPION, f"a{i}", **base | other)
        better.observe(Arm.CHALLENGER, f"b{i}", **base | one)
    assert worse.decide(1.0) == Status.ROLLED_BACK
    assert f"{metric} is worse" in worse.reason
    assert better.decide(1.0) == Status.RUNNING


def test_a_rollout_goes_on_after_a_restart_where_it_was():
    canary = start(QUICK, "x", 0.0)
    feed(canary, Arm.CHALLENGER, 40, score=0.5)
    feed(canary, Arm.CHAMPION, 40, score=0.5)
    canary.decide(60.0)
    feed(canary, Arm.CHALLENGER, 29, error=True)
    kept = CanaryState.model_validate_json(canary.state.model_dump_json())
    resumed = Canary(QUICK, kept)
    assert resumed.state == canary.state
    for either in (canary, resumed):
        either.decide(61.0)
        feed(either, Arm.CHALLENGER, 5, error=True, session="t")
    assert resumed.status == canary.status == Status.ROLLED_BACK


@pytest.mark.parametrize("shares", [(), (0.5,), (0.5, 0.2, 1.0), (0.0, 1.0), (0.5, 0.5, 1.0)])
def test_shares_must_rise_to_all(shares):
    with pytest.raises(ValueError, match="must rise"):
        CanaryConfig(shares=shares)


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(-5, 5)), min_size=1, max_size=60))
def test_running_sums_are_those_of_the_whole_sessions(values):
    sums, sessions = SessionSums(), {}
    for session, value in values:
        n, t = sessions.get(session, (0, 0.0))
        sums = sums.with_value(value, n, t)
        sessions[session] = (n + 1, t + value)
    n, t = (np.array(column, dtype=float) for column in zip(*sessions.values(), strict=True))
    assert sums.sessions == len(sessions)
    assert [sums.n, sums.t, sums.nn, sums.nt, sums.tt] == pytest.approx(
        [n.sum(), t.sum(), n @ n, n @ t, t @ t], abs=1e-6
    )


def test_the_variance_is_clustered_by_session():
    rng = np.random.default_rng(0)
    means = []
    for _ in range(300):
        sums = SessionSums()
        for effect in rng.normal(0, 1, 60):  # five requests a session, alike but for a little noise
            t = 0.0
            for n, value in enumerate(effect + rng.normal(0, 0.1, 5)):
                sums = sums.with_value(value, n, t)
                t += value
        means.append((sums.mean, sums.variance))
    found = np.var([mean for mean, _ in means])
    assert np.mean([variance for _, variance in means]) == pytest.approx(found, rel=0.2)


@pytest.mark.parametrize("d", [-3.0, -0.5, 0.0, 0.4, 2.0])
def test_the_mixture_is_the_integral_over_harmful_effects(d):
    V, tau = 0.3, 0.7
    effects = np.linspace(0, 12, 200_001)
    ratio = norm.pdf(d, effects, math.sqrt(V)) / norm.pdf(d, 0, math.sqrt(V))
    mixed = np.trapezoid(ratio * 2 * norm.pdf(effects, 0, tau), effects)
    assert log_likelihood_ratio(d, V, tau) == pytest.approx(math.log(mixed), abs=1e-6)


def test_the_mixture_does_not_underflow_far_from_harm():
    assert log_likelihood_ratio(-9.0, 0.001, 1.0) == pytest.approx(-9.9, abs=1.0)


def test_strata_with_too_few_sessions_do_not_count():
    few = SessionSums().with_value(1.0, 0, 0.0)
    assert harm([(few, few)], 1) is None


@pytest.mark.slow
@pytest.mark.parametrize("rollouts", [200, pytest.param(1000, marks=pytest.mark.whole)])
def test_equal_challengers_are_stopped_in_at_most_five_percent_of_rollouts(rollouts):
    [found] = simulate_canary(CanaryConfig(), rollouts=rollouts, effects=(Effect(name="A/A"),), seed=0)
    print(table([found]))
    assert found.stopped <= 0.05 * rollouts


@pytest.mark.slow
def test_harm_is_found_and_a_disaster_at_once():
    found = {d.effect.name: d for d in simulate_canary(CanaryConfig(), rollouts=40, effects=EFFECTS[1:], seed=0)}
    print(table(list(found.values())))
    assert all(d.stopped >= 38 for d in found.values())
    assert found["errors +20 points"].median_delay_s <= 300
    assert found["errors +20 points"].median_exposed <= 100


def test_a_simulation_is_a_function_of_its_seed():
    options = {"rollouts": 2, "effects": EFFECTS[2:3], "traffic": Traffic(requests_per_s=2.0)}
    assert simulate_canary(QUICK, seed=1, **options) == simulate_canary(QUICK, seed=1, **options)


def test_wilson_covers_zero_and_one():
    assert wilson(0, 100)[0] == 0.0 and wilson(100, 100)[1] == pytest.approx(1.0)
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


@pytest.fixture
def sagemaker():
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "eu-west-1"}
    with Stubber(boto3.client("sagemaker", **keys)) as stub:
        yield stub


def test_sagemaker_takes_the_guardrail_and_every_stages_weights(sagemaker):
    config = CanaryConfig()
    arn = {"EndpointArn": "arn:aws:sagemaker:eu-west-1:123456789012:endpoint/npc"}
    deployment = guardrail(config, ["npc-errors", "npc-latency"], instances=20)
    request = {"EndpointName": "npc", "EndpointConfigName": "npc-2", "DeploymentConfig": deployment}
    sagemaker.add_response("update_endpoint", arn, request)
    sagemaker.client.update_endpoint(**request)
    routing = deployment["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert routing["CanarySize"] == {"Type": "INSTANCE_COUNT", "Value": 1}  # 5 % of 20
    assert routing["WaitIntervalInSeconds"] == 900

    canary = start(QUICK, "npc", 0.0)
    for stage, share in enumerate(QUICK.shares):
        weights = variant_weights(canary, "npc")
        assert [v["DesiredWeight"] for v in weights["DesiredWeightsAndCapacities"]] == [1 - share, share]
        sagemaker.add_response("update_endpoint_weights_and_capacities", arn, weights)
        sagemaker.client.update_endpoint_weights_and_capacities(**weights)
        feed(canary, Arm.CHALLENGER, 1)
        canary.decide(60.0 * (stage + 1))


def test_a_guardrail_that_cannot_guard_is_refused():
    with pytest.raises(UsageError, match="never rolls back"):
        guardrail(CanaryConfig(), [], instances=4)
    with pytest.raises(UsageError, match="at most 50 %"):
        guardrail(CanaryConfig(shares=(0.6, 1.0)), ["a"], instances=4)
