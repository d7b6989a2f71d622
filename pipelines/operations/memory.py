"""What a step needs of each GPU, by the memory model of components/shared/training/distributed/memory.py.

Training holds, beside what that model counts, the reference's log-probabilities on the probe by which the KL is measured,
and works on three tensors of that size while it measures. A policy that is only asked (the distillation's teacher, the
evaluation's four in turn) is its parameters and a cache of keys and values. A tenth of each GPU is left to its context and
to fragmentation, which nobody can count beforehand.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from components.shared.contracts.configuration import parse_config
from components.shared.contracts.environment import Strategy
from components.shared.contracts.errors import unknown
from components.shared.contracts.records import Tier
from components.shared.storage.paths import configs_root
from components.shared.storage.yaml_files import read_mapping
from components.shared.training.distributed.memory import FULL, ModelShape, TrainingSetup, kv_cache_bytes, memory_use
from pipelines.configuration import load_tier
from pipelines.definitions.composer import Task
from pipelines.engines.champions import TEACHERS
from pipelines.job_settings import BaseModelUse, Instance

GIB = 2**30
RESERVE = 0.1
"""Share of a GPU that is not counted on."""
GENERATION_ROWS = 256
"""Prompts that an evaluation answers at once: the default of components/shared/training/rollouts.py; a test compares."""
ROWS = {"srl": "srl.batch_size", "rlvr": "rlvr.accumulation", "distillation": "distillation.batch_size"}
"""The setting by which a stage's rows in one pass are made fewer."""
MODELLED = (*ROWS, "evaluation")


class BaseModels(BaseModel):
    """configs/base_models.yaml."""

    as_of: date
    base_models: dict[str, dict[str, Any]]
    """ModelShape's fields by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """The machines of a step, and how its work is spread over them."""

    gpus: int
    """Of all machines together."""
    gpu_memory_gib: float
    strategy: Strategy
    rows_divided_by: int = 1
    """How many times fewer rows go through the model at once than configured."""
    lora_rank: int | None = None
    """Rank of an adapter that the configuration has not; none for what it says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMemory:
    """One GPU's share."""

    model: str
    processes: int
    strategy: Strategy
    rows: int
    """Rows in one pass of one process."""
    parts_gib: Mapping[str, float]
    needed_gib: float
    usable_gib: float

    @property
    def fits(self) -> bool:
        return self.needed_gib <= self.usable_gib


def shape_of(name: str) -> ModelShape:
    """A base model's shape. Raises UsageError for one that the table does not hold."""
    table = _base_models(configs_root() / "base_models.yaml")
    if name not in table:
        raise unknown("base model", name, table)
    return table[name]


@functools.cache
def _base_models(path: Path) -> Mapping[str, ModelShape]:
    found = parse_config(BaseModels, read_mapping(path), str(path)).base_models
    return {name: ModelShape(**shape) for name, shape in found.items()}


def base_of(tier: Tier) -> BaseModelUse | None:
    """What a tier trains; none where its file does not say."""
    return load_tier(tier).base_model


def placement(instance: Instance, count: int, strategy: Strategy) -> Placement:
    return Placement(gpus=instance.gpus * count, gpu_memory_gib=instance.gpu_memory_gib, strategy=strategy)


def step_memory(task: Task, tier: Tier, where: Placement) -> StepMemory | None:
    """What a task of `tier` needs of each GPU; none for a stage that holds no model, or a tier that names none."""
    use = base_of(tier)
    if task.spec.name not in MODELLED or use is None:
        return None
    shape = shape_of(use.name)
    spread = task.spec.spread and where.strategy != Strategy.SINGLE
    processes = max(1, where.gpus) if spread else 1
    strategy = where.strategy if spread else Strategy.SINGLE
    tokens: dict[str, Any] = {"prompt_tokens": use.prompt_tokens, "completion_tokens": use.completion_tokens}
    if task.spec.name == "evaluation":
        asked = TrainingSetup(rows=1, rollouts=GENERATION_ROWS, **tokens)
        parts = {"parameters": 2 * shape.parameters, "kv_cache": kv_cache_bytes(shape, asked)}
        rows, needed = GENERATION_ROWS, sum(parts.values())
    else:
        rows, rollouts, probe_rows = _rows(task, processes, where.rows_divided_by)
        setup = TrainingSetup(
            rows=rows,
            rollouts=rollouts,
            strategy=strategy,
            processes=processes,
            reference=task.spec.name != "distillation",
            undo=task.spec.name != "distillation",
            lora_rank=_counted_rank(shape, where.lora_rank or getattr(task.config, "lora_rank", None)),
            **tokens,
        )
        use_of = memory_use(shape, setup)
        probe = probe_rows * use.completion_tokens * shape.vocabulary * FULL
        teacher = _teacher_bytes(task, tier)
        at_work = max(use_of.gathered + max(use_of.activations + use_of.vocabulary, use_of.kv_cache), use_of.gradients)
        needed = use_of.device - at_work + max(at_work, 3 * probe) + probe + teacher
        names = ("parameters", "reference", "gradients", "optimizer", "undo", "activations", "vocabulary", "kv_cache")
        parts = {name: getattr(use_of, name) for name in names} | {"probe": probe, "teacher": teacher}
    return StepMemory(
        model=use.name,
        processes=processes,
        strategy=strategy,
        rows=rows,
        parts_gib={name: value / GIB for name, value in parts.items() if value},
        needed_gib=needed / GIB,
        usable_gib=where.gpu_memory_gib * (1 - RESERVE),
    )


def _rows(task: Task, processes: int, divided: int) -> tuple[int, int, int]:
    """(rows in one pass, rows generated at once, rows of the probe), of one process."""
    config: Any = task.config
    if task.spec.name == "rlvr":
        rollouts = config.prompts_per_step * config.group_size
        return (
            _share(rollouts, processes * config.accumulation * divided),
            _share(rollouts, processes),
            config.kl.probe_prompts,
        )
    if task.spec.name == "distillation":
        rows = _share(config.batch_size, divided)
        return rows, config.batch_size, 0
    if config.reading == "similarity":
        rollouts = config.similarity.prompts_per_step * config.similarity.group_size
        return _share(rollouts, processes * divided), _share(rollouts, processes), config.probe_prompts
    return _share(config.batch_size, processes * divided), 0, _share(config.probe_prompts, processes)


def _counted_rank(shape: ModelShape, rank: int | None) -> int | None:
    """The rank at which attention's adapters alone, which the model counts, are as large as those on every linear layer."""
    if rank is None:
        return None
    everywhere = shape.adapter_parameters(rank) + shape.layers * 3 * rank * (shape.hidden + shape.intermediate)
    return math.ceil(rank * everywhere / shape.adapter_parameters(rank))


def _share(rows: int, parts: int) -> int:
    return math.ceil(rows / parts)


def _teacher_bytes(task: Task, tier: Tier) -> int:
    teacher = TEACHERS.get(tier) if task.spec.name == "distillation" else None
    above = base_of(teacher) if teacher else None
    return 2 * shape_of(above.name).parameters if above else 0


def setting(task: Task, divided: int) -> str:
    """The setting that makes the rows of one pass so many times fewer, as `--set` takes it."""
    name = ROWS[task.spec.name]
    config: Any = task.config
    value = config.accumulation * divided if task.spec.name == "rlvr" else config.batch_size // divided
    return f"{name}={value}"


def divisors(task: Task) -> list[int]:
    """By how much a task's rows can be made fewer, 1 for as they are."""
    config: Any = task.config
    if task.spec.name not in ROWS or getattr(config, "reading", "weighted") != "weighted":
        return [1]
    most = config.prompts_per_step // config.accumulation if task.spec.name == "rlvr" else config.batch_size
    found = [2**power for power in range(12) if 2**power <= most]
    if task.spec.name == "rlvr":
        return [d for d in found if config.prompts_per_step % (config.accumulation * d) == 0]
    return [d for d in found if config.batch_size % d == 0]
