"""The same canary on SageMaker: deployment guardrails for whole endpoints, variant weights stage by stage.

A guardrail knows two steps (the first share, then all) and rolls back on CloudWatch alarms. Every stage, and the sequential
test, go through the weights of two production variants instead.
"""

from collections.abc import Sequence
from typing import Any

from components.shared.contracts.errors import UsageError
from components.shared.serving.canary import Arm, Canary, CanaryConfig

MAX_WAIT_S = 3600
"""SageMaker's limit of a bake."""


def guardrail(config: CanaryConfig, alarms: Sequence[str], *, instances: int) -> dict[str, Any]:
    """UpdateEndpoint's DeploymentConfig: blue/green with the first share as canary, rolled back on any of the alarms.

    Raises UsageError without alarms, or where the first share is not a whole instance or more.
    """
    if not alarms:
        raise UsageError("a guardrail without alarms never rolls back: name CloudWatch alarms on errors and latency")
    canary = config.shares[0]
    if canary > 0.5:
        raise UsageError(f"canary share {canary:.0%}: SageMaker takes at most 50 % as the first step")
    if config.bake_s > MAX_WAIT_S:
        raise UsageError(f"bake_s = {config.bake_s:.0f}: SageMaker waits at most {MAX_WAIT_S} s")
    size = {"Type": "INSTANCE_COUNT", "Value": max(1, round(canary * instances))}
    wait = round(config.bake_s)
    return {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": {
                "Type": "CANARY" if instances > 1 else "ALL_AT_ONCE",
                "WaitIntervalInSeconds": wait,
                **({"CanarySize": size} if instances > 1 else {}),
            },
            "TerminationWaitInSeconds": wait,
            "MaximumExecutionTimeoutInSeconds": max(600, min(28800, 4 * wait)),
        },
        "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in alarms]},
    }


def variant_weights(canary: Canary, endpoint: str) -> dict[str, Any]:
    """UpdateEndpointWeightsAndCapacities' request for where the rollout stands: variants `champion` and `challenger`."""
    return {
        "EndpointName": endpoint,
        "DesiredWeightsAndCapacities": [
            {"VariantName": Arm.CHAMPION.value, "DesiredWeight": round(1 - canary.share, 6)},
            {"VariantName": Arm.CHALLENGER.value, "DesiredWeight": round(canary.share, 6)},
        ],
    }
