"""The pipeline PREFIX-collection with which the nightly state machine begins: what production answered on the day before.

`trace-collection` makes data to distil of Bronze's answers, s3://BUCKET/traces/collected/; `serving-drift` holds each tier's
answers against the evidence of the version that serves it, s3://BUCKET/PREFIX/nights/drift/. Both read the routers' files
below s3://BUCKET/traces/served/ and know nothing of each other: one's failure leaves the other's word.
"""

from components.shared.contracts.records import Tier
from components.shared.monitoring.served import NOTHING_SERVES
from pipelines.compilers.module_jobs import ModuleJob, compile_jobs, files_of
from pipelines.compilers.sagemaker import SageMakerPipeline
from pipelines.compilers.sagemaker_checks import check_account
from pipelines.compilers.sagemaker_steps import Json, join, parameter
from pipelines.configuration import load_settings

STEM = "collection"
SERVED, COLLECTED = "traces/served", "traces/collected"
"""Below the bucket: what routers ship, and what is made of it."""
JOBS = ("trace-collection", "serving-drift")
"""Its steps, which run side by side."""


def collection_files(environment: str) -> dict[str, str]:
    """The definition and CreatePipeline's request, as `compiled_files` names them."""
    return files_of(STEM, compile_collection(environment))


def compile_collection(environment: str) -> SageMakerPipeline:
    """The pipeline for an environment. Raises UsageError for one without an account."""
    settings = load_settings(environment)
    account = check_account(settings)
    subject: list[str | Json] = [
        "--model-type", parameter("model_type"), "--night", parameter("night"), "--logs", f"s3://{account.bucket}/{SERVED}",
    ]  # fmt: skip
    evidence = {tier: f"{tier}_evidence" for tier in Tier}
    jobs = (
        ModuleJob(
            name=JOBS[0],
            module="components.distillation.nightly_traces",
            description="Bronze's answers of the day before, verified, as trajectories to distil.",
            arguments=[*subject, "--out", f"s3://{account.bucket}/{COLLECTED}"],
        ),
        ModuleJob(
            name=JOBS[1],
            module="components.shared.monitoring",
            description="What each tier was asked and how it scored, against what its version was registered with.",
            arguments=[
                *subject,
                "--out",
                f"{account.root}/nights/drift",
                "--evidence",
                *(join("=", tier, parameter(name)) for tier, name in evidence.items()),
            ],
        ),
    )
    return compile_jobs(
        settings,
        STEM,
        "Collects what production answered, and compares it with what serves.",
        jobs,
        model_type=None,
        night=None,
        **dict.fromkeys(evidence.values(), NOTHING_SERVES),
    )
