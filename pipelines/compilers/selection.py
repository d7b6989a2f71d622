"""The pipeline PREFIX-selection that the weekly state machine starts: who serves what, by what was measured.

It runs `python -m components.shared.selection` over the account's registry, the measurements that `srl-rlvr measure` adds to
s3://BUCKET/PREFIX/serving/measured and the table in effect, s3://BUCKET/PREFIX/selection/current.json, and leaves its
proposal beside that. Its one parameter names the week.
"""

from pathlib import Path

from components.shared.contracts.errors import UsageError
from components.shared.performance.sagemaker_registry import SCHEME
from components.shared.storage.places import S3
from pipelines.compilers.module_jobs import ModuleJob, compile_jobs, files_of
from pipelines.compilers.sagemaker import SageMakerPipeline
from pipelines.compilers.sagemaker_checks import check_account
from pipelines.configuration import Environment, load_settings
from pipelines.job_settings import SageMaker

STEM = "selection"


def selection_files(environment: str) -> dict[str, str]:
    """The definition and CreatePipeline's request, as `compiled_files` names them."""
    return files_of(STEM, compile_selection(environment))


def compile_selection(environment: str) -> SageMakerPipeline:
    """The pipeline for an environment.

    Raises UsageError for one without an account, and for what its job could not read.
    """
    settings = load_settings(environment)
    account, registry = check_account(settings), settings.environment.registry_uri
    if registry is None:
        raise UsageError(
            f"environment {environment!r} names no registry_uri: add {SCHEME}GROUP_PREFIX?region={account.region}"
        )
    measured = measurements(settings.environment)
    if not measured.startswith(S3):
        raise UsageError(
            f"environment {environment!r}: measured = {measured!r} is out of the job's reach: name an {S3} prefix"
        )
    job = ModuleJob(
        name=STEM,
        module="components.shared.selection",
        description="Which policy each model type is served with on each tier, by what was measured.",
        arguments=["--registry", registry, "--measured", measured, "--tables", tables(account)],
    )
    description = "Proposes the policy that each model type is served with on each tier."
    return compile_jobs(settings, STEM, description, [job], night="adhoc")


def tables(account: SageMaker) -> str:
    """Where an account's selection tables lie."""
    return f"{account.root}/selection"


def measurements(environment: Environment, runs: Path = Path("runs")) -> str:
    """Where an environment's serving measurements are kept: `measure` adds to it, the selection reads it."""
    account = environment.sagemaker
    return environment.measured or (
        f"{account.root}/serving/measured" if account else str(runs / "serving" / "measured")
    )
