"""A connection to MLflow: quiet, lazy, and safe to open for the first time from several processes at once.

On this machine the store is one SQLite file (`sqlite:////absolute/mlflow.db`) with the artifacts in a folder beside it; in
production any tracking server, by the same calls. Importing mlflow takes more than a second and creating the database
almost two, so both happen at the first use and never before.
"""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from components.shared.contracts.errors import PipelineError, UsageError

if TYPE_CHECKING:
    from mlflow import MlflowClient

TRACKING_URI = "MLFLOW_TRACKING_URI"
REGISTRY = "SRL_RLVR_REGISTRY"
"""URI of the registry, where it is not the tracking store: sagemaker://GROUP_PREFIX."""
SQLITE = "sqlite:///"
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A server that is away is asked again by whoever replays the spool; MLflow's own seven retries take minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
QUIET = ("mlflow", "alembic", "urllib3.connectionpool")
"""Loggers that repeat in many lines what their exception says once; it is raised and told in one."""


def tracking_uri() -> str:
    """The store that the environment names. Raises UsageError where it names none."""
    uri = os.environ.get(TRACKING_URI)
    if not uri:
        raise UsageError(f"{TRACKING_URI} is not set: export {TRACKING_URI}=sqlite:////absolute/path/mlflow.db")
    return uri


def registry_uri() -> str:
    """The registry that the environment names, by default the tracking store."""
    return os.environ.get(REGISTRY) or tracking_uri()


def database(uri: str) -> Path | None:
    """The SQLite file of a tracking URI; none for a server."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0]) if uri.startswith(SQLITE) else None


def artifact_root(file: Path) -> str:
    """Where a SQLite store keeps its artifacts, as a URI: MLflow's own default would follow the working directory."""
    return (file.parent / "artifacts").resolve().as_uri()


@contextlib.contextmanager
def exclusive(uri: str) -> Iterator[None]:
    """One holder at a time among all threads and processes that use the SQLite file; no lock where a server is used.

    The kernel frees the lock of a process that dies.
    """
    file = database(uri)
    if file is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f"{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def connect(uri: str) -> "MlflowClient":
    """A client of the store, which is created first where it is a SQLite file that is not there yet."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with mlflow_errors(uri):
        file = database(uri)
        if file is not None and not file.exists():
            with exclusive(uri):
                _create(file)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _create(file: Path) -> None:
    """Migrate a new database under a temporary name, so that a process killed half-way leaves no half-made store."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if file.exists():
        return
    temporary = file.with_name(f".{file.name}.partial")
    temporary.unlink(missing_ok=True)
    store = SqlAlchemyStore(f"{SQLITE}{temporary}", artifact_root(file))
    store.engine.dispose()
    temporary.replace(file)


def experiment_id(client: "MlflowClient", uri: str, name: str) -> str:
    """The experiment's id, creating it where it is new; two processes that create it at once get the same one."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found:
        return found.experiment_id
    file = database(uri)
    location = f"{artifact_root(file)}/{name}" if file else None
    try:
        return client.create_experiment(name, artifact_location=location)
    except MlflowException as error:
        found = client.get_experiment_by_name(name)
        if found is None or error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return found.experiment_id


@contextlib.contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """MLflow's failures as one line that names the store."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        line = " ".join(str(error).split())[:300]
        raise PipelineError(f"MLflow store {uri}: {line}: check that it can be reached and written") from error
