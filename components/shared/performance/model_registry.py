"""The model registry: one accepted policy is one version, however often and from wherever it is registered.

One interface, `Registry`, and two behind it: `open_registry` takes the one that the URI names, SageMaker's where it begins
with sagemaker:// (sagemaker_registry.py), MLflow's otherwise.

MLflow's registry holds the versions, a run of the experiment `model-registry` holds each version's files, and two aliases
say what serves: `champion`, and `challenger`, which waits for a person. A version is identified by its tag
`policy_digest`, the digest of the policy's manifest. The policy's sealed folder is stored whole and verified on its way
back, so a version outlives the run that trained it.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from components.shared.contracts.errors import CorruptArtifact, PipelineError, UsageError
from components.shared.contracts.records import Tier
from components.shared.contracts.stage import ArtifactKind, Report
from components.shared.performance.mlflow_store import connect, database, exclusive, experiment_id, mlflow_errors
from components.shared.storage.artifacts import MANIFEST, read_manifest, verify, whole

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
CHALLENGER = "challenger"
EXPERIMENT = "model-registry"
FOLDER = "policy"
"""Path of the sealed policy among a version's artifacts."""
DIGEST = "policy_digest"
COMPARED_WITH = "compared_with"
"""Digest of the policy that a version was measured against."""
APPROVER = "approver"
"""Who made a version champion."""
REJECTION = ("rejected_by", "rejected_because")
"""Who rejected a version, and why; gone where it is promoted after all."""
SCORE = "score."
"""Prefix of the tags that hold scores."""
DESCRIPTION_LIMIT = 5000
"""Characters of a version's description that every MLflow back end keeps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One registered policy."""

    name: str
    """MODELTYPE-TIER."""
    number: int
    """The registry's number, from 1."""
    policy_digest: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    """Lineage and scores as registered."""
    source: str
    """URI of the sealed policy folder."""
    run: str
    """Id of the MLflow run that holds it, or the model package's ARN."""
    served: bool = False
    """Whether it was champion at some time and was not rejected since: one to go back to."""
    evidence: str | None = None
    """URI of the report that spoke for it, with its answers beside it; none where the registry keeps scores only."""

    @property
    def scores(self) -> dict[str, float]:
        return {key.removeprefix(SCORE): float(value) for key, value in self.tags.items() if key.startswith(SCORE)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Champion(Version):
    """The version that serves, with its files at hand."""

    path: Path
    """A sealed POLICY folder, verified; read only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two versions side by side; a value that only one of them has is None on the other side."""

    scores: Mapping[str, tuple[float | None, float | None]]
    """Every score of either, by name."""
    lineage: Mapping[str, tuple[str | None, str | None]]
    """The other tags in which they differ, by name."""


def model_name(model_type: str, tier: Tier) -> str:
    """The registered model of a model type on a tier."""
    return f"{model_type}-{tier}"


class Registry(Protocol):
    """What both registries do. Every method raises PipelineError where the registry cannot be reached."""

    def register(self, name: str, policy: Path, tags: Mapping[str, str], card: str) -> Version:
        """The version of `name` that holds the sealed folder `policy`; created where there is none."""
        ...

    def annotate(self, version: Version, tags: Mapping[str, str]) -> None:
        """Add what became known of a version later, such as its cost; a tag that is there keeps its value."""
        ...

    def promote(self, version: Version, approver: str = "gate", over: str | None = None) -> bool:
        """Make `version` the champion; says whether it is. Nothing changes where another came since `over`."""
        ...

    def challenge(self, version: Version) -> bool:
        """Leave `version` for a person to promote; says whether it is the challenger."""
        ...

    def reject(self, version: Version, approver: str, reason: str) -> None:
        """Take a version that waits away from the people it waits for. Raises UsageError for the champion."""
        ...

    def champion(self, model_type: str, tier: Tier) -> Champion | None:
        """What serves, its files verified; None where nothing does."""
        ...

    def fetch(self, version: Version) -> Path:
        """The version's sealed policy folder on this machine, verified."""
        ...

    def find(self, name: str, digest: str) -> Version | None:
        """The version of `name` that holds the policy with this digest, its scores among its tags."""
        ...

    def versions(self, model_type: str, tier: Tier) -> list[Version]:
        """The versions of a registered model, oldest first: the latest, and the latest that served, where a registry has to
        ask for each by itself. For scores, ask `find` or `compare`."""
        ...

    def compare(self, a: Version, b: Version) -> Comparison:
        """Scores of both, and where their lineage differs."""
        ...

    def registered(self, report_folder: Path) -> bool:
        """Whether the version that a registration's report names is in the registry, with the policy that it says."""
        ...


def open_registry(uri: str, downloads: Path | None = None) -> Registry:
    """The registry that `uri` names: sagemaker://GROUP_PREFIX, or an MLflow store."""
    from components.shared.performance.sagemaker_registry import SCHEME, SageMakerRegistry

    return SageMakerRegistry(uri, downloads) if uri.startswith(SCHEME) else ModelRegistry(uri, downloads)


def holder(versions: Iterable[Version], alias: str) -> Version | None:
    """The version that holds an alias; none where none does."""
    return next((version for version in versions if alias in version.aliases), None)


def compare_versions(a: Version, b: Version) -> Comparison:
    """Scores of both, and where their lineage differs."""
    lineage = {key for key in {**a.tags, **b.tags} if not key.startswith(SCORE) and a.tags.get(key) != b.tags.get(key)}
    return Comparison(
        scores={name: (a.scores.get(name), b.scores.get(name)) for name in sorted(a.scores | b.scores)},
        lineage={key: (a.tags.get(key), b.tags.get(key)) for key in sorted(lineage)},
    )


def said_by(registry: Registry, report_folder: Path) -> Version | None:
    """The version that a registration's report names, if the registry holds it with that policy."""
    details = Report.model_validate_json((report_folder / "report.json").read_bytes()).details
    version = registry.find(str(details["name"]), str(details[DIGEST]))
    return version if version and version.number == details["version"] else None


class ModelRegistry:
    """MLflow's registry at one tracking URI. Every method raises PipelineError where MLflow cannot be reached."""

    def __init__(self, uri: str, downloads: Path | None = None):
        """`downloads` is where a remote store's policies are fetched to; by default a folder of the user's cache."""
        self._uri = uri
        self._downloads = downloads or Path.home() / ".cache" / "srl-rlvr" / "policies"

    @functools.cached_property
    def _client(self) -> "MlflowClient":
        return connect(self._uri)

    @property
    def _empty(self) -> bool:
        """True where the store is a SQLite file that nobody has created: a question must not create it."""
        file = database(self._uri)
        return file is not None and not file.exists()

    def register(self, name: str, policy: Path, tags: Mapping[str, str], card: str) -> Version:
        """The version of `name` that holds the sealed folder `policy`; created where there is none.

        `card` becomes the version's description, and model_card.md beside the files. Raises CorruptArtifact for a policy
        that does not match its manifest. A version whose stored files were lost or altered gets them again.
        """
        digest = verify(policy, ArtifactKind.POLICY).digest
        client = self._client
        with mlflow_errors(self._uri), exclusive(self._uri):
            known = self._find(name, digest)
            run = client.get_run(known.run if known else self._open_run(name, digest))
            source = f"{run.info.artifact_uri}/{FOLDER}"
            if run.info.status != "FINISHED" or not _intact(source, digest):
                client.log_artifacts(run.info.run_id, str(policy), FOLDER)
                client.log_text(run.info.run_id, card, "model_card.md")
                client.set_terminated(run.info.run_id)
            if known:
                return known
            self._create_model(name)
            created = client.create_model_version(
                name, source, run.info.run_id, {**tags, DIGEST: digest}, description=card[:DESCRIPTION_LIMIT]
            )
            return self._settle(name, digest, int(created.version))

    def _open_run(self, name: str, digest: str) -> str:
        """The run for a policy's files: the one that an interrupted registration left, or a new one."""
        experiment = experiment_id(self._client, self._uri, EXPERIMENT)
        query = f"tags.{DIGEST} = '{digest}' and attributes.run_name = '{name}'"
        left = self._client.search_runs([experiment], query, order_by=["start_time"], max_results=1)
        run = left[0] if left else self._client.create_run(experiment, tags={DIGEST: digest}, run_name=name)
        return run.info.run_id

    def _create_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _settle(self, name: str, digest: str, created: int) -> Version:
        """The first version of the policy, after taking back `created` where it is not the first.

        A server offers no lock: two processes may both have created one. Numbers are given in order, so whoever came
        second sees the first.
        """
        first = self._list(name, digest)[0]
        if created != first.number:
            self._client.delete_model_version(name, str(created))
        return first

    def promote(self, version: Version, approver: str = "gate", over: str | None = None) -> bool:
        """Make `version` the champion; says whether it is.

        `over` is the policy digest that it was compared with: where another champion has come since, the comparison is
        stale and nothing changes.
        """
        client = self._client
        with mlflow_errors(self._uri), exclusive(self._uri):
            current = self._holder(version.name, CHAMPION)
            if over is not None and current and current.policy_digest not in (over, version.policy_digest):
                return False
            known = client.get_model_version(version.name, str(version.number)).tags
            client.set_model_version_tag(version.name, str(version.number), APPROVER, approver)
            for tag in known.keys() & set(REJECTION):
                client.delete_model_version_tag(version.name, str(version.number), tag)
            client.set_registered_model_alias(version.name, CHAMPION, str(version.number))
            challenger = self._holder(version.name, CHALLENGER)
            if challenger and challenger.number == version.number:
                client.delete_registered_model_alias(version.name, CHALLENGER)
        return True

    def challenge(self, version: Version) -> bool:
        """Leave `version` for a person to promote; says whether it is the challenger. A newer challenger stays."""
        with mlflow_errors(self._uri), exclusive(self._uri):
            current = self._holder(version.name, CHALLENGER)
            if current and current.number > version.number:
                return False
            self._client.set_registered_model_alias(version.name, CHALLENGER, str(version.number))
        return True

    def annotate(self, version: Version, tags: Mapping[str, str]) -> None:
        """Add what became known of a version later, such as its cost; a tag that is there keeps its value."""
        with mlflow_errors(self._uri), exclusive(self._uri):
            known = self._client.get_model_version(version.name, str(version.number)).tags
            for key, value in tags.items():
                if key not in known:
                    self._client.set_model_version_tag(version.name, str(version.number), key, value)

    def reject(self, version: Version, approver: str, reason: str) -> None:
        """Take a version that waits away from the people it waits for. Raises UsageError for the champion."""
        with mlflow_errors(self._uri), exclusive(self._uri):
            champion, challenger = (self._holder(version.name, alias) for alias in (CHAMPION, CHALLENGER))
            if champion and champion.number == version.number:
                raise serves(version)
            for key, value in zip(REJECTION, (approver, reason), strict=True):
                self._client.set_model_version_tag(version.name, str(version.number), key, value)
            if challenger and challenger.number == version.number:
                self._client.delete_registered_model_alias(version.name, CHALLENGER)

    def champion(self, model_type: str, tier: Tier) -> Champion | None:
        """What serves, its files verified; None where nothing does.

        Raises CorruptArtifact where the stored files are not the policy that was registered.
        """
        if self._empty:
            return None
        with mlflow_errors(self._uri):
            version = self._holder(model_name(model_type, tier), CHAMPION)
            if version is None:
                return None
            return Champion(**dataclasses.asdict(version), path=self.fetch(version))

    def fetch(self, version: Version) -> Path:
        """The version's sealed policy folder on this machine, verified."""
        path = _local(version.source) or self._download(version)
        if verify(path, ArtifactKind.POLICY).digest != version.policy_digest:
            raise CorruptArtifact(
                f"{version.name} version {version.number}: {path} holds another policy: register it again"
            )
        return path

    def _download(self, version: Version) -> Path:
        target = self._downloads / version.policy_digest
        if not target.exists():
            from mlflow.artifacts import download_artifacts

            with whole(target) as folder:
                download_artifacts(artifact_uri=version.source, dst_path=str(folder), tracking_uri=self._uri)
                fetched = folder / FOLDER
                for path in fetched.iterdir():
                    path.rename(folder / path.name)
                fetched.rmdir()
        return target

    def find(self, name: str, digest: str) -> Version | None:
        """The version of `name` that holds the policy with this digest."""
        if self._empty:
            return None
        with mlflow_errors(self._uri):
            return self._find(name, digest)

    def versions(self, model_type: str, tier: Tier) -> list[Version]:
        """Every version of a registered model, oldest first."""
        if self._empty:
            return []
        with mlflow_errors(self._uri):
            return self._list(model_name(model_type, tier))

    def compare(self, a: Version, b: Version) -> Comparison:
        """Scores of both, and where their lineage differs."""
        return compare_versions(a, b)

    def registered(self, report_folder: Path) -> bool:
        """Whether the version that a registration's report names is in the registry, with the policy that it says."""
        version = said_by(self, report_folder)
        local = _local(version.source) if version else None
        if version is None or local is None:
            return version is not None
        return (local / MANIFEST).is_file() and read_manifest(local).digest == version.policy_digest

    def _find(self, name: str, digest: str) -> Version | None:
        return next(iter(self._list(name, digest)), None)

    def _holder(self, name: str, alias: str) -> Version | None:
        return holder(self._list(name), alias)

    def _list(self, name: str, digest: str | None = None) -> list[Version]:
        """The versions of a model, or those of one policy, oldest first."""
        query = f"name = '{name}'" + (f" and tags.{DIGEST} = '{digest}'" if digest else "")
        page = self._client.search_model_versions(query)
        found = list(page)
        while page.token:
            page = self._client.search_model_versions(query, page_token=page.token)
            found += page
        # A search leaves out aliases; only the registered model knows them.
        aliases = self._client.get_registered_model(name).aliases if found else {}
        return sorted((_version(item, aliases) for item in found), key=lambda version: version.number)


def serves(version: Version) -> UsageError:
    """Why the champion is not rejected."""
    return UsageError(
        f"{version.name} version {version.number} serves: give the place to another one first (srl-rlvr rollback)"
    )


def _version(found: "ModelVersion", aliases: Mapping[str, str]) -> Version:
    return Version(
        name=found.name,
        number=int(found.version),
        policy_digest=found.tags.get(DIGEST, ""),
        aliases=tuple(sorted(alias for alias, number in aliases.items() if int(number) == int(found.version))),
        tags=dict(found.tags),
        source=found.source or "",
        run=found.run_id or "",
        served=APPROVER in found.tags and REJECTION[0] not in found.tags,
    )


def _intact(source: str, digest: str) -> bool:
    """Whether the stored files are the policy; a remote store's are checked on their way back."""
    local = _local(source)
    try:
        return local is None or verify(local, ArtifactKind.POLICY).digest == digest
    except PipelineError:
        return False


def _local(source: str) -> Path | None:
    """The folder behind a file URI; none for a remote store's."""
    if not source.startswith(("file:", "/")):
        return None
    from mlflow.utils.file_utils import local_file_uri_to_path

    return Path(local_file_uri_to_path(source))
