"""SageMaker's Model Registry behind the same calls as MLflow's: one model package group a model, one package a version.

    sagemaker://GROUP_PREFIX[?region=REGION][&bucket=BUCKET&image=IMAGE]

The group of npc_dialogue-gold is GROUP_PREFIX-npc-dialogue-gold, as the nightly state machine names it; that machine makes
the packages of what it starts, and what is read here is what it wrote; `adopt` makes those of other executions. Approval
says what serves: the champion is the newest approved package, the challenger the newest that waits. A group keeps no alias,
so an older version becomes champion by withdrawing the approval of those after it, and every package waits from the start.
`bucket` and `image` are needed to register only.

Metadata of a package is lineage; its scores are the `metrics` of the JSON that its model quality names, which is the
evidence's report.json where the night made the package.
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from components.shared.contracts.errors import CorruptArtifact, PipelineError, UsageError, unknown
from components.shared.contracts.records import Tier
from components.shared.contracts.stage import ArtifactKind
from components.shared.performance.model_registry import (
    APPROVER,
    CHALLENGER,
    CHAMPION,
    COMPARED_WITH,
    DIGEST,
    REJECTION,
    SCORE,
    Champion,
    Comparison,
    Version,
    compare_versions,
    model_name,
    said_by,
    serves,
)
from components.shared.storage.artifacts import verify
from components.shared.storage.aws import aws_client, aws_errors
from components.shared.storage.places import download, get_text, put_text, upload

SCHEME = "sagemaker://"
APPROVED, PENDING, REJECTED = "Approved", "PendingManualApproval", "Rejected"
MOST_TAGS = 50
"""Entries of a package's metadata, of 128 and 256 characters, as the API's model says."""
REFUSED = re.compile(r"[^\w\s.:/=+\-@]")
"""What the API refuses in them."""
LATEST = 20
"""Packages that are looked at one by one: a group gets one a night, and what serves, waits or served is among them."""
ABSENT = ("ResourceNotFound", "ResourceNotFoundException")
TYPES = "application/json"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A policy that lies in the account's bucket, and what its package says of it."""

    policy_digest: str
    source: str
    """Prefix of its sealed folder, with a slash at the end."""
    evidence: str
    """URI of the JSON whose `metrics` are its scores."""
    image: str
    """What serves it."""
    description: str
    execution: str | None = None
    """ARN of the pipeline execution that made it."""


class SageMakerRegistry:
    """The packages of one account and region. Raises PipelineError where AWS cannot be reached or refuses."""

    def __init__(self, uri: str, downloads: Path | None = None):
        """Raises UsageError for a URI that names no prefix, or has an option that nobody knows."""
        parts = urlsplit(uri)
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        for name in options:
            if name not in ("region", "bucket", "image"):
                raise unknown(f"option of {SCHEME}", name, ["region", "bucket", "image"])
        if not uri.startswith(SCHEME) or not parts.netloc:
            raise UsageError(f"registry {uri!r} names no group prefix: write {SCHEME}GROUP_PREFIX")
        self._prefix, self._options = parts.netloc, options
        self._digests: dict[str, str] = {}
        """Policies of packages, by ARN: they never change."""
        self._downloads = downloads or Path.home() / ".cache" / "srl-rlvr" / "policies"

    @functools.cached_property
    def _client(self) -> Any:
        return aws_client("sagemaker", self._options.get("region"))

    def group(self, name: str) -> str:
        """The model package group of a registered model."""
        return f"{self._prefix}-{name.replace('_', '-')}"

    def name_of(self, package: str) -> str:
        """The registered model that a package is of, by its ARN. Raises UsageError for one of another registry."""
        kind, _, place = package.rpartition(":")[2].partition("/")
        group = place.partition("/")[0]
        if kind != "model-package" or not group.startswith(f"{self._prefix}-"):
            raise UsageError(f"{package} is no model package of {SCHEME}{self._prefix}: pass --env of its account")
        model_type, _, tier = group.removeprefix(f"{self._prefix}-").rpartition("-")
        return f"{model_type.replace('-', '_')}-{tier}"

    def register(self, name: str, policy: Path, tags: Mapping[str, str], card: str) -> Version:
        """The version of `name` that holds the sealed folder `policy`; created, waiting, where there is none.

        Raises CorruptArtifact for a policy that does not match its manifest. Two that register one policy at once make one
        package: the token is the policy's.
        """
        digest = verify(policy, ArtifactKind.POLICY).digest
        bucket, image = (self._option(option) for option in ("bucket", "image"))
        if known := self.find(name, digest):
            return known
        place = f"s3://{bucket}/registry/{self.group(name)}/{digest}"
        upload(policy, f"{place}/policy")
        scores = {key.removeprefix(SCORE): float(value) for key, value in tags.items() if key.startswith(SCORE)}
        put_text(f"{place}/model_card.md", card)
        put_text(f"{place}/scores.json", json.dumps({"metrics": scores}, indent=1))
        stored = Stored(
            policy_digest=digest,
            source=f"{place}/policy/",
            evidence=f"{place}/scores.json",
            image=image,
            description=f"policy {digest[:12]}: {place}/model_card.md",
        )
        made = self.adopt(name, stored, {key: value for key, value in tags.items() if not key.startswith(SCORE)})
        return _scored(made)

    def adopt(self, name: str, policy: "Stored", tags: Mapping[str, str]) -> Version:
        """The version of `name` for a policy that lies in the account already; created, waiting, where none holds it. It
        comes without scores.

        Two that ask for one policy at once make one package: the token is the policy's.
        """
        if known := self._holding(name, policy.policy_digest):
            return known
        group, digest = self.group(name), policy.policy_digest
        made_by: dict[str, Any] = {"MetadataProperties": {"GeneratedBy": policy.execution}} if policy.execution else {}
        with aws_errors(group):
            self._create_group(group)
            self._client.create_model_package(
                ModelPackageGroupName=group,
                ModelPackageDescription=policy.description,
                ModelApprovalStatus=PENDING,
                ClientToken=hashlib.sha256(f"{group}/{digest}".encode()).hexdigest()[:36],
                InferenceSpecification={
                    "Containers": [
                        {
                            "Image": policy.image,
                            "ModelDataSource": {
                                "S3DataSource": {
                                    "S3Uri": policy.source,
                                    "S3DataType": "S3Prefix",
                                    "CompressionType": "None",
                                }
                            },
                        }
                    ],
                    "SupportedContentTypes": [TYPES],
                    "SupportedResponseMIMETypes": [TYPES],
                },
                ModelMetrics={"ModelQuality": {"Statistics": {"ContentType": TYPES, "S3Uri": policy.evidence}}},
                CustomerMetadataProperties=_metadata(name, {**tags, DIGEST: digest}),
                **made_by,
            )
        return self._known(name, digest)

    def annotate(self, version: Version, tags: Mapping[str, str]) -> None:
        """Add what became known of a version later, such as its cost; a tag that is there keeps its value."""
        self._change(version, {**tags, **self._described(version).get("CustomerMetadataProperties", {})})

    def promote(self, version: Version, approver: str = "gate", over: str | None = None) -> bool:
        """Make `version` the champion; says whether it is.

        `over` is the policy digest that it was compared with: where another champion has come since, nothing changes. The
        approval of newer versions is withdrawn, or they would go on serving; an interrupted promotion is finished by the
        next.
        """
        current = self._serving(version.name)
        if over is not None and current and current.policy_digest not in (over, version.policy_digest):
            return False
        said = f"promoted by {approver}"
        known = self._described(version).get("CustomerMetadataProperties", {})
        metadata = {key: value for key, value in known.items() if key not in REJECTION} | {APPROVER: approver}
        self._change(version, metadata, APPROVED, said, gone=[key for key in REJECTION if key in known])
        for newer in self._summaries(version.name, APPROVED):
            if newer["ModelPackageVersion"] > version.number:
                arn = newer["ModelPackageArn"]
                # Rejected, so that no distillation takes it for a teacher.
                self._change(arn, self._described(arn).get("CustomerMetadataProperties", {}), REJECTED, said)
        return True

    def challenge(self, version: Version) -> bool:
        """Leave `version` for a person to promote; says whether it is the challenger. A newer challenger stays, and what
        was approved once waits for nobody."""
        status = self._described(version)["ModelApprovalStatus"]
        if status == REJECTED:
            self._change(version, self._described(version).get("CustomerMetadataProperties", {}), PENDING, "waits")
        return CHALLENGER in _aliases(self._summaries(version.name), version.number)

    def reject(self, version: Version, approver: str, reason: str) -> None:
        """Take a version that waits away from the people it waits for. Raises UsageError for the champion."""
        if CHAMPION in _aliases(self._summaries(version.name), version.number):
            raise serves(version)
        metadata = self._described(version).get("CustomerMetadataProperties", {})
        metadata |= dict(zip(REJECTION, (approver, reason), strict=True))
        self._change(version, metadata, REJECTED, f"rejected by {approver}: {reason}")

    def champion(self, model_type: str, tier: Tier) -> Champion | None:
        """What serves, its files verified; None where nothing does."""
        version = self._serving(model_name(model_type, tier))
        return Champion(**dataclasses.asdict(version), path=self.fetch(version)) if version else None

    def fetch(self, version: Version) -> Path:
        """The version's sealed policy folder on this machine, verified."""
        target = self._downloads / version.policy_digest
        if not target.exists():
            download(version.source, target)
        if verify(target, ArtifactKind.POLICY).digest != version.policy_digest:
            raise CorruptArtifact(f"{version.name} version {version.number}: {version.source} holds another policy")
        return target

    def find(self, name: str, digest: str) -> Version | None:
        """The version of `name` that holds the policy with this digest."""
        version = self._holding(name, digest)
        return _scored(version) if version else None

    def versions(self, model_type: str, tier: Tier) -> list[Version]:
        """The latest versions of a registered model and the latest that were approved, `LATEST` each, oldest first; without
        scores: a lost report must not stop a roll-back. Each costs a call, since no list of AWS's names a package's policy.
        """
        name = model_name(model_type, tier)
        summaries = self._summaries(name)
        approved = [item for item in summaries if item["ModelApprovalStatus"] == APPROVED]
        latest = [*summaries[-LATEST:], *approved[-LATEST:]]
        numbers = {item["ModelPackageVersion"] for item in latest}
        return [self._version(name, item, summaries) for item in summaries if item["ModelPackageVersion"] in numbers]

    def compare(self, a: Version, b: Version) -> Comparison:
        """Scores of both, and where their lineage differs."""
        return compare_versions(_scored(a), _scored(b))

    def registered(self, report_folder: Path) -> bool:
        """Whether the version that a registration's report names is in the registry, with the policy that it says."""
        return said_by(self, report_folder) is not None

    def _holding(self, name: str, digest: str) -> Version | None:
        """The newest version that holds a policy: what is asked for is mostly what was made last."""
        summaries = self._summaries(name)
        found = (self._version(name, item, summaries) for item in reversed(summaries))
        return next((version for version in found if version.policy_digest == digest), None)

    def _serving(self, name: str) -> Version | None:
        approved = self._summaries(name, APPROVED)
        return self._version(name, approved[-1], approved) if approved else None

    def _known(self, name: str, digest: str) -> Version:
        version = self._holding(name, digest)
        if version is None:
            raise PipelineError(
                f"{self.group(name)}: the package of {digest[:12]} is not listed yet: register it again"
            )
        return version

    def _option(self, name: str) -> str:
        if name not in self._options:
            raise UsageError(
                f"to register, {SCHEME}{self._prefix} needs ?{name}=...: the night makes the packages else"
            )
        return self._options[name]

    def _create_group(self, group: str) -> None:
        try:
            self._client.describe_model_package_group(ModelPackageGroupName=group)
        except self._client.exceptions.ClientError:
            self._client.create_model_package_group(ModelPackageGroupName=group)

    def _summaries(self, name: str, status: str | None = None) -> list[dict[str, Any]]:
        """Packages of a model, oldest first; none where there is no such group."""
        group = self.group(name)
        asked = {"ModelPackageGroupName": group, **({"ModelApprovalStatus": status} if status else {})}
        with aws_errors(group):
            try:
                pages = list(self._client.get_paginator("list_model_packages").paginate(**asked))
            except self._client.exceptions.ClientError as error:
                if not _absent(error):
                    raise
                return []
        found = [item for page in pages for item in page["ModelPackageSummaryList"]]
        return sorted(found, key=lambda item: item["ModelPackageVersion"])

    def _version(self, name: str, listed: Mapping[str, Any], among: Sequence[Mapping[str, Any]]) -> Version:
        """A listed package as version, with the aliases that it has among others."""
        found = self._described(listed["ModelPackageArn"])
        tags = dict(found.get("CustomerMetadataProperties", {}))
        # The night names the package that it was compared with; everyone else asks by the policy.
        if tags.get(COMPARED_WITH, "").startswith("arn:"):
            tags[COMPARED_WITH] = self._digest(tags[COMPARED_WITH])
        container = found["InferenceSpecification"]["Containers"][0]
        return Version(
            name=name,
            number=found["ModelPackageVersion"],
            policy_digest=tags.get(DIGEST, ""),
            aliases=_aliases(among, found["ModelPackageVersion"]),
            tags=tags,
            source=container.get("ModelDataSource", {}).get("S3DataSource", {}).get("S3Uri", ""),
            run=found["ModelPackageArn"],
            served=found["ModelApprovalStatus"] == APPROVED,
            evidence=found.get("ModelMetrics", {}).get("ModelQuality", {}).get("Statistics", {}).get("S3Uri"),
        )

    def _digest(self, package: str) -> str:
        """The policy of a package; the package itself where it was deleted."""
        if package not in self._digests:
            try:
                self._described(package)
            except PipelineError as error:
                if not _absent(error.__cause__):
                    raise
        return self._digests.get(package, package)

    def _described(self, package: Version | str) -> dict[str, Any]:
        arn = package if isinstance(package, str) else package.run
        with aws_errors(arn):
            found = self._client.describe_model_package(ModelPackageName=arn)
        self._digests[arn] = found.get("CustomerMetadataProperties", {}).get(DIGEST, "")
        return found

    def _change(
        self,
        package: Version | str,
        metadata: Mapping[str, str],
        status: str | None = None,
        why: str | None = None,
        gone: Sequence[str] = (),
    ) -> None:
        arn = package if isinstance(package, str) else package.run
        more: dict[str, Any] = {"CustomerMetadataPropertiesToRemove": list(gone)} if gone else {}
        if status:
            more |= {"ModelApprovalStatus": status, "ApprovalDescription": why}
        with aws_errors(arn):
            self._client.update_model_package(
                ModelPackageArn=arn, CustomerMetadataProperties=_metadata(arn, metadata), **more
            )


def _metadata(what: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as the API takes them. Raises UsageError where they are too many: nothing of a lineage is dropped in silence."""
    if len(tags) > MOST_TAGS:
        raise UsageError(f"{what}: {len(tags)} tags, SageMaker keeps {MOST_TAGS}: register with fewer")
    return {REFUSED.sub("_", key)[:128]: REFUSED.sub("_", value)[:256] for key, value in tags.items()}


def _aliases(packages: Sequence[Mapping[str, Any]], number: int) -> tuple[str, ...]:
    """What a package is among those listed, oldest first: the newest approved, or the newest that waits."""
    newest = {item["ModelApprovalStatus"]: item["ModelPackageVersion"] for item in packages}
    return tuple(
        alias for alias, status in ((CHALLENGER, PENDING), (CHAMPION, APPROVED)) if newest.get(status) == number
    )


def _absent(error: Any) -> bool:
    """Whether an error of AWS says that there is no such thing."""
    said = getattr(error, "response", {}).get("Error", {"Code": "", "Message": ""})
    return said["Code"] in ABSENT or any(words in said["Message"] for words in ("does not exist", "not found"))


def _scored(version: Version) -> Version:
    """The version with its scores, which lie in the report that spoke for it; as it is where none is named."""
    if version.evidence is None:
        return version
    try:
        metrics = json.loads(get_text(version.evidence))["metrics"]
    except (ValueError, KeyError) as error:
        raise CorruptArtifact(f"{version.evidence} holds no `metrics`: it is no report of an evaluation") from error
    return dataclasses.replace(version, tags={**version.tags, **{f"{SCORE}{k}": str(v) for k, v in metrics.items()}})
