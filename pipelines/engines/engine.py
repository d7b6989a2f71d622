"""What an engine is: whatever runs a compiled DAG to its end and keeps the run's folder up to date meanwhile."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol

from components.shared.contracts.records import Outcome
from pipelines.compilers.kubeflow import CompiledDag
from pipelines.engines.run_folder import RunFolder


class EngineName(StrEnum):
    """The engines by the name that `--engine` takes."""

    LOCAL = "local"
    """Subprocesses under KFP's own orchestrator."""
    DOCKER = "docker"
    """Containers under the same orchestrator."""
    SAGEMAKER_LOCAL = "sagemaker-local"
    """The SageMaker definition under the SDK's local executor: subprocesses, and S3 by moto."""
    SAGEMAKER = "sagemaker"
    """SageMaker Pipelines, in the environment's account."""


class Engine(Protocol):
    """Runs DAGs. A run that was killed, stopped or failed is run again by the same call: what was finished is kept."""

    def run(self, dag: CompiledDag, arguments: Mapping[str, Any], folder: RunFolder) -> Outcome:
        """Run the DAG to its end; a failed task's error is in the folder's state."""
        ...
