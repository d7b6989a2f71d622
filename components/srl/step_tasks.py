"""Expert trajectories as next-step tasks: what to show, what to expect, and how a sampled answer is read.

A trajectory of N steps gives N tasks: the prompt is the scenario's, then the expert's steps before the k-th. (The paper
leaves out the first, which has no steps before it; here it decides as much as any other.)
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from components.shared.contracts.records import Trajectory
from components.srl.spec import StepFormat

THOUGHT = re.compile(r"\s*<think>(?:(?!</?think>).)*</think>\s*(?P<step>\S.*)", re.DOTALL)
INSTRUCTION = "Think inside <think> and </think>, then write only the next step."


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTask:
    """One step to predict."""

    trajectory: Trajectory
    position: int
    """Index of the step in the trajectory, from 0."""
    prompt: str

    @property
    def expected(self) -> str:
        """What the expert wrote."""
        return self.trajectory.steps[self.position].text


def step_tasks(trajectories: Iterable[Trajectory], step_format: StepFormat, show_title: bool) -> list[StepTask]:
    """Every step of every trajectory, in order."""
    return [
        StepTask(trajectory=t, position=k, prompt=_prompt(t, k, step_format, show_title))
        for t in trajectories
        for k in range(len(t.steps))
    ]


def _prompt(trajectory: Trajectory, position: int, step_format: StepFormat, show_title: bool) -> str:
    parts = [trajectory.scenario.prompt]
    if step_format == StepFormat.THINK_ACT:
        parts.append(INSTRUCTION)
    parts += [step.text for step in trajectory.steps[:position]]
    if show_title:
        parts.append(trajectory.steps[position].title)
    return " ".join(parts)


def read_step(text: str, step_format: StepFormat) -> str | None:
    """The step that an answer gives, or none where it breaks the format."""
    if step_format == StepFormat.PLAIN:
        return text.strip()
    found = THOUGHT.fullmatch(text)
    return found["step"].strip() if found else None
