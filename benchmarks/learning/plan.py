"""What is measured: the arms, how each comes from another, and which of them the short and the full plan hold."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Literal, NamedTuple

from pydantic import JsonValue

from components.shared.trainers.trainer_factory import MODEL_TYPES


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One way to train: a stage on top of the policy of another arm."""

    title: str
    stage: Literal["sft", "srl", "rlvr"] | None = None
    """None: nothing is trained."""
    parent: str | None = None
    """The arm whose policy it starts from."""
    equal_to: str | None = None
    """The arm whose CPU-seconds, parents included, it may use; without one, the stage's own configuration decides."""
    settings: dict[str, JsonValue] = field(default_factory=dict)
    """What differs from the stage's configuration in `make run`."""

    @property
    def needs(self) -> set[str]:
        """The arms that must be there before."""
        return {name for name in (self.parent, self.equal_to) if name is not None}


NO_KL: dict[str, JsonValue] = {"beta": 1e-9, "kl": {"target": 1e6, "ceiling": 1e7}}
"""RLVR without its anchor: the stage takes no beta of 0, so the penalty is made too small to matter, and no update is
refused."""

ARMS = {
    "base": Arm(title="base"),
    "sft": Arm(title="SFT", stage="sft", parent="base", equal_to="srl"),
    "more_sft": Arm(title="more SFT", stage="sft", parent="base", equal_to="srl_rlvr"),
    "srl": Arm(title="SRL", stage="srl", parent="base"),
    "rlvr": Arm(title="RLVR alone", stage="rlvr", parent="base", equal_to="srl_rlvr"),
    "sft_rlvr": Arm(title="SFT → RLVR", stage="rlvr", parent="sft"),
    "srl_rlvr": Arm(title="SRL → RLVR", stage="rlvr", parent="srl"),
    "srl_rlvr_no_kl": Arm(title="SRL → RLVR without KL", stage="rlvr", parent="srl", settings=NO_KL),
    "similarity": Arm(title="SRL, similarity", stage="srl", parent="base", settings={"reading": "similarity"}),
    "similarity_rlvr": Arm(title="SRL, similarity → RLVR", stage="rlvr", parent="similarity"),
    "srl_ppo": Arm(title="SRL → RLVR by PPO", stage="rlvr", parent="srl", settings={"algorithm": "ppo"}),
}
"""In the order of the page. SFT has the seconds of SRL, so SFT → RLVR costs what SRL → RLVR does."""


class Job(NamedTuple):
    """One result to measure."""

    model_type: str
    seed: int
    arm: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Which results there are to be."""

    model_types: tuple[str, ...]
    seeds: tuple[int, ...]
    arms: tuple[str, ...]

    def jobs(self) -> Iterator[Job]:
        """Every result of the plan."""
        yield from map(Job._make, product(self.model_types, self.seeds, self.arms))


LEARN = Plan(model_types=("npc_dialogue",), seeds=(1, 2, 3), arms=tuple(ARMS)[: list(ARMS).index("similarity")])
LEARN_FULL = Plan(model_types=tuple(MODEL_TYPES), seeds=(1, 2, 3, 4, 5), arms=tuple(ARMS))
