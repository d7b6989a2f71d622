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


def create_trainer(model_type: str, world: str) -> ModelTypeTrainer:
    """The trainer of `model_type` over the world of that name. Raises UsageError for an unknown one of either."""
    if model_type not in MODEL_TYPES:
        raise unknown("model type", model_type, MODEL_TYPES)
    module, _, cls = MODEL_TYPES[model_type].partition(":")
    return getattr(import_module(f"components.shared.trainers.{module}"), cls)(load_world(world))
