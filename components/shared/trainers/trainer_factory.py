"""Model types by name. Add yours here."""

from importlib import import_module

from components.shared.collaboration.world import load_world
from components.shared.contracts.errors import unknown
from components.shared.trainers.base_trainer import ModelTypeTrainer

MODEL_TYPES = {
    "npc_dialogue": "npc_dialogue_trainer:NPCDialogueTrainer",
    "story_generation": "story_generation_trainer:StoryGenerationTrainer",
    "reasoning": "reasoning_trainer:ReasoningTrainer",
}
IMPORTED_TYPES = {"word_problems": "word_problem_trainer:WordProblemTrainer"}
"""Model types whose scenarios come from files alone: nothing is drawn of them."""


def check_model_type(name: str) -> None:
    """Raise UsageError for an unknown one."""
    if name not in MODEL_TYPES | IMPORTED_TYPES:
        raise unknown("model type", name, MODEL_TYPES | IMPORTED_TYPES)


def create_trainer(model_type: str, world: str) -> ModelTypeTrainer:
    """The trainer of `model_type` over the world of that name. Raises UsageError for an unknown one of either."""
    check_model_type(model_type)
    module, _, cls = (MODEL_TYPES | IMPORTED_TYPES)[model_type].partition(":")
    return getattr(import_module(f"components.shared.trainers.{module}"), cls)(load_world(world))
