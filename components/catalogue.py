"""Every stage, in the order data flows. Importing this imports specs alone."""

from importlib import import_module

from components.shared.contracts.errors import unknown
from components.shared.contracts.stage import StageSpec

STAGES = (
    "trajectory_generation",
    "verification",
    "data_validation",
    "srl",
    "rlvr",
    "evaluation",
    "distillation",
    "registration",
)


def spec_of(stage: str) -> StageSpec:
    """The spec of a stage by name; raises UsageError with the nearest name for an unknown one."""
    if stage not in STAGES:
        raise unknown("stage", stage, STAGES)
    return import_module(f"components.{stage}.spec").SPEC
