import pytest

from components.shared.contracts.errors import UsageError
from components.shared.training.grpo.algorithms import Update, rows_per_device
from components.shared.training.grpo.settings import Algorithm


def update(prompts: int, accumulation: int) -> Update:
    return Update(
        algorithm=Algorithm.GRPO,
        steps=1,
        seed=0,
        prompts=prompts,
        group_size=4,
        max_tokens=8,
        learning_rate=1e-3,
        max_grad_norm=1.0,
        beta=0.1,
        temperature=1.0,
        accumulation=accumulation,
    )


def test_prompts_are_divided_over_processes_and_micro_batches_in_whole_groups():
    assert rows_per_device(update(8, 1), 1) == 32
    assert rows_per_device(update(8, 2), 2) == 8
    with pytest.raises(UsageError, match="8 prompts an update over 3 processes and 1 micro-batches"):
        rows_per_device(update(8, 1), 3)
