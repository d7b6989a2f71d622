"""From a request to a finished run, on whichever engine: configure, compile, resolve the champions, run, record."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from components.shared.contracts.environment import EXECUTION_KEY, REVISION
from components.shared.contracts.errors import PipelineError
from components.shared.contracts.records import Outcome, Tier, content_id
from components.shared.performance.mlflow_sink import MlflowSink
from components.shared.performance.mlflow_store import REGISTRY, TRACKING_URI
from components.shared.performance.model_registry import Registry, open_registry
from pipelines.compilers.kubeflow import CompiledDag, compile_dag
from pipelines.compilers.sagemaker_checks import check_account
from pipelines.configuration import Environment, Settings, load_settings
from pipelines.engines.champions import accepted_profile, resolve
from pipelines.engines.docker import Containers
from pipelines.engines.engine import Engine, EngineName
from pipelines.engines.local import LocalEngine, fresh_tasks
from pipelines.engines.process import Runner, Subprocesses
from pipelines.engines.remote_inputs import remote_inputs
from pipelines.engines.run_folder import RunFolder, RunState, new_run_id
from pipelines.engines.sagemaker import SageMakerEngine, real_account
from pipelines.engines.sagemaker_local import SageMakerLocalEngine, with_account
from pipelines.engines.stage_store import StageStore
from pipelines.engines.tracking import EXPERIMENT, BackgroundTracking
from pipelines.images import revision
from pipelines.operations.package import package
from pipelines.operations.preflight import check
from pipelines.report.costs import record_costs

TRACKING_GRACE_SECONDS = 60.0
"""How long a finished run waits for MLflow to take what it measured."""

OnReport = Callable[[str, Path, float | None], None]
Display = Callable[[RunFolder], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that came to its end."""

    folder: RunFolder
    outcome: Outcome
    tracking_failure: str | None
    """Why MLflow does not hold everything; none where it does."""
    package: str | None = None
    """The model package of what was registered in an account and how it stands; none where there is none to make."""


def start(
    dag_name: str,
    *,
    environment: str,
    tier: Tier,
    assignments: Sequence[str],
    run_id: str | None,
    runs: Path,
    display: Display,
    engine: EngineName = EngineName.LOCAL,
) -> Finished:
    """Run a DAG as a new run. Raises UsageError or PipelineError before anything is written where it cannot be run."""
    settings = settings_for(engine, environment, tier, assignments)
    dag = compile_dag(dag_name, settings)
    check_images(engine, dag, runs)
    if engine == EngineName.SAGEMAKER:
        check(check_account(settings), environment)
    state = RunState(
        run_id=run_id or new_run_id(dag_name, str(settings.defaults["model_type"])),
        dag=dag_name,
        engine=engine,
        environment=environment,
        tier=tier,
        assignments=tuple(assignments),
        tracking_uri=tracking_uri(settings.environment, runs),
        started=datetime.now(UTC),
        tasks=fresh_tasks(dag),
    )
    registry = registry_of(settings.environment, state.tracking_uri)
    if engine == EngineName.SAGEMAKER:
        parameters = {**own_parameters(dag), **remote_inputs(dag, registry)}
        key = content_id(dag.ir, parameters)
    else:
        champions, key = resolve(dag, registry)
        parameters = {**own_parameters(dag), **{name: str(path) for name, path in champions.items()}}
        if "accepted" in parameters:
            parameters["accepted"] = accepted_profile(dag, registry, stage_store(runs), key)
    state = state.model_copy(update={"parameters": parameters, "execution_key": key})
    folder = RunFolder.create(runs, state)
    with folder.locked():
        return run(dag, folder, display)


def resume(run_id: str, *, runs: Path, display: Display) -> Finished:
    """Go on with a run, measured against what it was measured against when it started."""
    folder = RunFolder.open(runs, run_id)
    with folder.locked():
        state = folder.state
        settings = settings_for(EngineName(state.engine), state.environment, state.tier, state.assignments)
        dag = compile_dag(state.dag, settings)
        check_images(EngineName(state.engine), dag, runs)
        return run(dag, folder, display)


def run(dag: CompiledDag, folder: RunFolder, display: Display) -> Finished:
    """Run what the folder's state says, with MLflow on the side."""
    state = folder.state
    tracking = BackgroundTracking(MlflowSink(state.tracking_uri, EXPERIMENT), folder)
    tags = {
        "dag": state.dag,
        "environment": state.environment,
        "tier": state.tier,
        "execution_key": str(state.execution_key),
    }
    tracking.start_run(state.run_id, tags, state.parameters)
    engine = engine_for(dag, folder, tracking.log_stage)
    try:
        with display(folder):
            outcome = engine.run(dag, state.parameters, folder)
        record_costs(folder, registry_of_stages(dag.settings.environment, state))
        tracking.finish(outcome)
    except BaseException:
        tracking.finish(Outcome.FAILED)
        raise
    finally:
        failure = tracking.close(TRACKING_GRACE_SECONDS)
    made = model_package(dag.settings, folder.state)
    return Finished(folder=folder, outcome=outcome, tracking_failure=failure, package=made)


def model_package(settings: Settings, state: RunState) -> str | None:
    """What came of the model package of a run whose execution no night follows."""
    if state.engine != EngineName.SAGEMAKER or state.outcome not in (Outcome.REGISTERED, Outcome.STALE):
        return None
    execution = str(state.execution)
    try:
        return package(execution, settings, registry_of(settings.environment, state.tracking_uri)).line
    except PipelineError as error:
        return f"not made: {error}: srl-rlvr package {execution} --env {state.environment}"


def remote(folder: RunFolder) -> tuple[SageMakerEngine, CompiledDag] | None:
    """The engine of a run whose execution is in AWS, and its DAG; none for a run of this machine."""
    state = folder.state
    if state.engine != EngineName.SAGEMAKER:
        return None
    dag = compile_dag(state.dag, load_settings(state.environment, state.tier, state.assignments))
    return SageMakerEngine(account=check_account(dag.settings), on_report=lambda *_: None), dag


def settings_for(engine: EngineName, environment: str, tier: Tier, assignments: Sequence[str]) -> Settings:
    """The settings of a run; an engine that compiles for SageMaker needs an account, if only one that stands in."""
    settings = load_settings(environment, tier, assignments)
    if engine == EngineName.SAGEMAKER:
        real_account(settings)
    return with_account(settings) if engine == EngineName.SAGEMAKER_LOCAL else settings


def engine_for(dag: CompiledDag, folder: RunFolder, on_report: OnReport) -> Engine:
    """The engine that a run's state names."""
    state = folder.state
    told = {TRACKING_URI: state.tracking_uri, EXECUTION_KEY: str(state.execution_key)}
    if (commit := revision()) is not None:
        told[REVISION] = commit
    if state.engine == EngineName.SAGEMAKER:
        return SageMakerEngine(account=check_account(dag.settings), on_report=on_report)
    if state.engine == EngineName.SAGEMAKER_LOCAL:
        return SageMakerLocalEngine(environment=told, on_report=on_report)
    if dag.settings.environment.registry_uri is not None:
        told[REGISTRY] = dag.settings.environment.registry_uri
    registry = registry_of_stages(dag.settings.environment, state)
    return LocalEngine(
        store=stage_store(folder.runs),
        environment=told,
        effect_holds=registry.registered,
        on_report=on_report,
        runner=runner_for(EngineName(state.engine), folder.runs),
    )


def stage_store(runs: Path) -> StageStore:
    return StageStore(runs.resolve() / "store")


def runner_for(engine: EngineName, runs: Path) -> Runner:
    cache = runs / "cache"
    return Containers(cache=cache) if engine == EngineName.DOCKER else Subprocesses(cache=cache)


def check_images(engine: EngineName, dag: CompiledDag, runs: Path) -> None:
    """Raise UsageError where an engine that runs containers lacks one of the DAG's images, or has it from other source."""
    if engine == EngineName.DOCKER:
        environment = dag.settings.environment
        Containers(cache=runs / "cache").check({environment.image(task.spec.image) for task in dag.tasks.values()})


def tracking_uri(environment: Environment, runs: Path) -> str:
    """MLflow's store: the environment's, or SQLite in the folder of runs."""
    return environment.tracking_uri or f"sqlite:///{runs.resolve() / 'mlflow' / 'mlflow.db'}"


def registry_of(environment: Environment, tracking: str) -> Registry:
    """The environment's model registry, by default the tracking store's."""
    return open_registry(environment.registry_uri or tracking)


def registry_of_stages(environment: Environment, state: RunState) -> Registry:
    """The registry that a run's own stages register in. As SageMaker's jobs they know the tracking store alone: who follows
    the execution makes the package, the nightly state machine or `model_package`, or each policy would be two."""
    jobs = state.engine in (EngineName.SAGEMAKER, EngineName.SAGEMAKER_LOCAL)
    return open_registry(state.tracking_uri) if jobs else registry_of(environment, state.tracking_uri)


def own_parameters(dag: CompiledDag) -> Mapping[str, str | int | float]:
    """The pipeline's parameters that are not artifacts, typed."""
    return {name: dag.settings.defaults[name] for name in dag.parameters if name in dag.settings.defaults}
