import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.contracts.records import Split
from components.srl.spec import StepFormat
from components.srl.step_tasks import INSTRUCTION, read_step, step_tasks

PLAIN, THINK_ACT = StepFormat.PLAIN, StepFormat.THINK_ACT


@pytest.fixture
def trajectories(npc_dataset):
    return list(npc_dataset.trajectories(Split.TRAIN))[:3]


def test_every_step_is_a_task_with_the_experts_steps_before_it(trajectories):
    tasks = step_tasks(trajectories, PLAIN, show_title=False)
    assert len(tasks) == sum(len(t.steps) for t in trajectories)
    for task in tasks:
        before = [step.text for step in task.trajectory.steps[: task.position]]
        assert task.prompt == " ".join([task.trajectory.scenario.prompt, *before])
        assert task.expected == task.trajectory.steps[task.position].text


def test_the_title_of_the_step_can_be_shown_and_the_format_is_asked_for(trajectories):
    first = step_tasks(trajectories, PLAIN, show_title=True)[1]
    assert first.prompt.endswith(f"{trajectories[0].steps[0].text} {trajectories[0].steps[1].title}")
    assert INSTRUCTION in step_tasks(trajectories, THINK_ACT, show_title=False)[0].prompt


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("<think>because</think> say yes", "say yes"),
        ("  <think>\nlong\nthought </think>\nsay\nno ", "say\nno"),
        ("<think></think>go", "go"),
        ("say yes", None),
        ("<think>never ends say yes", None),
        ("<think>thought</think>   ", None),
        ("first <think>thought</think> say yes", None),
        ("<think>a</think><think>b</think> go", "<think>b</think> go"),
        ("<think>a <think>b</think> go", None),
        ("", None),
    ],
)
def test_think_then_act_is_read_strictly(text, step):
    assert read_step(text, THINK_ACT) == step


@given(st.text())
def test_any_text_is_a_plain_step(text):
    assert read_step(text, PLAIN) == text.strip()


@given(st.text().filter(lambda t: "<think>" not in t and "</think>" not in t), st.text().filter(str.strip))
def test_whatever_follows_a_thought_is_the_step(thought, step):
    assert read_step(f"<think>{thought}</think>{step}", THINK_ACT) == step.strip()
