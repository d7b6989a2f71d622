"""Who teaches, who decides how, and what is known: what a configuration asks for, as objects."""

from components.shared.collaboration.bandit import BanditPlanner, plans_of
from components.shared.collaboration.budget import Budget
from components.shared.collaboration.context_retriever import Retriever
from components.shared.collaboration.planner import FixedPlanner, Planner
from components.shared.collaboration.planner_memory import PlannerMemory
from components.shared.collaboration.request_cache import RequestCache, default_path
from components.shared.collaboration.sources import open_retriever
from components.shared.collaboration.teacher_config import TeacherConfig, TeacherKind
from components.shared.collaboration.teacher_planner import OpenAITeacher, ScriptedTeacher, Teacher
from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import content_id
from components.shared.trainers.base_trainer import ModelTypeTrainer
from components.trajectory_generation.spec import TrajectoryGenerationConfig


def all_teachers(config: TrajectoryGenerationConfig) -> tuple[TeacherConfig, ...]:
    return (config.teacher, *config.more_teachers)


def workers(config: TrajectoryGenerationConfig) -> int:
    """Scenarios in work at once: twice the requests that may be in flight, so that the endpoints stay busy while answers
    are put on disk and verified."""
    return 2 * sum(t.concurrency for t in all_teachers(config) if t.kind != TeacherKind.SCRIPTED) or 1


def create_teachers(trainer: ModelTypeTrainer, config: TrajectoryGenerationConfig) -> dict[str, Teacher]:
    """The configured teachers by name, on one budget and one record of requests.

    Raises UsageError where two share a name, or an endpoint's address, model, price or key is missing.
    """
    configs = all_teachers(config)
    names = [teacher.name for teacher in configs]
    if len(set(names)) < len(names):
        raise UsageError(f"teachers {', '.join(names)}: a name is there twice: give each endpoint its own model")
    if all(teacher.kind == TeacherKind.SCRIPTED for teacher in configs):
        return {teacher.name: ScriptedTeacher(trainer) for teacher in configs}
    budget, cache = Budget(config.budget), RequestCache(default_path())
    return {teacher.name: create_teacher(trainer, teacher, budget, cache) for teacher in configs}


def create_teacher(trainer: ModelTypeTrainer, config: TeacherConfig, budget: Budget, cache: RequestCache) -> Teacher:
    """One teacher."""
    if config.kind == TeacherKind.SCRIPTED:
        return ScriptedTeacher(trainer)
    from components.shared.collaboration.endpoint import Endpoint

    return OpenAITeacher(trainer, Endpoint(config, budget=budget, cache=cache))


def create_retriever(config: TrajectoryGenerationConfig) -> Retriever:
    """The retriever over the configured documents. A knowledge base's index is kept beside the record of requests; a world
    is too small for that to save anything."""
    if config.knowledge is None:
        return open_retriever(f"world:{config.world}", embeddings=config.embeddings)
    return open_retriever(config.knowledge, cache=default_path().parent / "indices", embeddings=config.embeddings)


def create_planner(trainer: ModelTypeTrainer, config: TrajectoryGenerationConfig) -> Planner:
    """The bandit where there is a choice, with what an earlier night learnt; else the only plan."""
    choice = config.planner
    depths = choice.depths or (config.retrieval_depth,)
    teachers = [teacher.name for teacher in all_teachers(config)]
    plans = plans_of(teachers, choice.strategies, depths, choice.step_budgets)
    if len(plans) == 1:
        return FixedPlanner(plans[0])
    return BanditPlanner(
        trainer.name,
        plans,
        seed=config.seed,
        score_per_usd=choice.score_per_usd,
        round_size=choice.round_size,
        state=memory.begin(choice.state) if (memory := planner_memory(config)) else choice.state,
    )


def planner_memory(config: TrajectoryGenerationConfig) -> PlannerMemory | None:
    """Where the planner keeps what it learns, this night being known by its configuration."""
    if config.planner.memory is None:
        return None
    return PlannerMemory(config.planner.memory, config.model_type, content_id(config.model_dump(mode="json")))
