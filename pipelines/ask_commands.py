"""`srl-rlvr ask`: each of the three models by itself, on one query, scenario or answer. What comes out is JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from components.shared.contracts.errors import UsageError

if TYPE_CHECKING:
    from components.trajectory_generation.spec import TrajectoryGenerationConfig

PATH = click.Path(path_type=Path)
REFUSED = 3
config_option = click.option(
    "--config", type=PATH, help="Configuration of stage trajectory_generation. [default: its own]"
)
model_type_option = click.option("--model-type", help="[default: the configuration's]")


@click.group()
def ask() -> None:
    """Ask the retriever, the teacher or the verifier alone."""


@ask.command()
@click.argument("query")
@click.option("--depth", type=click.IntRange(min=1), help="Documents. [default: the configuration's]")
@config_option
def retriever(query: str, depth: int | None, config: Path | None) -> None:
    """The documents that QUERY finds."""
    from components.shared.collaboration.single_calls import retrieve
    from components.trajectory_generation.setup import create_retriever

    settings = read_config(config)
    found = retrieve(create_retriever(settings), query, depth or settings.retrieval_depth)
    show({"documents": [{"score": one.score, **one.document.model_dump(mode="json")} for one in found]})


@ask.command()
@config_option
@model_type_option
@click.option("--seed", default=0, show_default=True, help="Of the scenario.")
@click.option("--feedback", multiple=True, help="What was wrong with the attempt before.")
def teacher(config: Path | None, model_type: str | None, seed: int, feedback: tuple[str, ...]) -> None:
    """One attempt of the configured teacher at a scenario of its model type; `ask verifier` reads what comes out."""
    from components.shared.collaboration.single_calls import draw, teach
    from components.shared.collaboration.teacher_planner import UnreadableAnswer
    from components.shared.contracts.errors import GateError
    from components.shared.trainers.trainer_factory import create_trainer
    from components.trajectory_generation.setup import create_retriever, create_teachers

    settings = read_config(config, model_type)
    trainer = create_trainer(settings.model_type, settings.world)
    [chosen, *_] = create_teachers(trainer, settings).values()
    scenario, documents = draw(trainer, seed), create_retriever(settings)
    try:
        taught = teach(scenario, chosen, documents, depth=settings.retrieval_depth, feedback=feedback, seed=seed)
    except UnreadableAnswer as fault:
        raise GateError(f"{chosen.name} gave no steps ({fault}): ask again with another --seed") from fault
    show(
        {
            "scenario": scenario.model_dump(mode="json"),
            "context": [document.id for document in taught.context],
            "steps": [step.model_dump(mode="json") for step in taught.steps],
            "usd": taught.usd,
            "tokens": taught.tokens,
        }
    )


@ask.command()
@click.argument("file", type=click.File())
@click.option("--world", default="wrackmere", show_default=True)
def verifier(file: Any, world: str) -> int:
    """The verdict on the steps for the scenario in FILE (`-`: standard input), as `ask teacher` writes them. Refused: 3."""
    from pydantic import ValidationError

    from components.shared.collaboration.single_calls import Answered, verify
    from components.shared.trainers.trainer_factory import create_trainer

    try:
        answered = Answered.model_validate_json(file.read())
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "file"
        raise UsageError(f"{file.name}: {where}: {fault['msg']}: give what `ask teacher` prints") from error
    verdict = verify(create_trainer(answered.scenario.model_type, world), answered.scenario, answered.steps)
    show(verdict.model_dump(mode="json"))
    return 0 if verdict.passed else REFUSED


def read_config(file: Path | None, model_type: str | None = None) -> "TrajectoryGenerationConfig":
    """The stage's configuration in a file, or its defaults, perhaps for another model type."""
    from components.shared.contracts.configuration import parse_config
    from components.shared.storage.yaml_files import read_mapping
    from components.trajectory_generation.spec import SPEC, TrajectoryGenerationConfig

    given = read_mapping(file) if file else {}
    return parse_config(
        TrajectoryGenerationConfig, {**given, **({"model_type": model_type} if model_type else {})}, SPEC.name
    )


def show(value: Mapping[str, Any]) -> None:
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))
