"""Hints: the first steps of an expert's answer, given to a prompt that no completion solved."""

import math
from collections.abc import Callable, Iterable, Sequence

from components.shared.contracts.records import Scenario, Trajectory
from components.shared.training.grpo.group_sampling import Row


def scenario_row(scenario: Scenario, index: int, hint: str = "") -> Row:
    """A scenario as TRL's row; a hint ends the prompt, so that no gradient reaches it, and starts the judged answer."""
    return {"prompt": f"{scenario.prompt} {hint}".strip(), "index": index, "hint": hint}


def hints(
    scenarios: Sequence[Scenario], trajectories: Iterable[Trajectory], share: float
) -> Callable[[int], Row | None]:
    """The row with a hint for a scenario's index, or none where no expert's trajectory is at hand."""
    starts = {t.scenario.id: first_steps(t, share) for t in trajectories}

    def hinted(index: int) -> Row | None:
        start = starts.get(scenarios[index].id)
        return scenario_row(scenarios[index], index, start) if start else None

    return hinted


def first_steps(trajectory: Trajectory, share: float) -> str:
    """The first `share` of the steps, at least one and never all; empty where there is only one."""
    count = len(trajectory.steps)
    given = min(count - 1, max(1, math.ceil(share * count)))
    return " ".join(step.text for step in trajectory.steps[:given])
