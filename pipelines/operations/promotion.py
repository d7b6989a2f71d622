"""What serves a tier, changed by a person: promote the version that waits, or give the place back to the one before.

One interface, two registries. On this machine the champion is an alias in MLflow. In an account it is the newest approved
model package of the group, which is what consumers read; the alias of the account's MLflow, which new runs are compared
with, is moved after it. Every change is idempotent: the same command again finishes what was interrupted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from components.shared.contracts.errors import PipelineError, UsageError, unknown
from components.shared.contracts.records import Tier
from components.shared.performance.model_registry import CHALLENGER, CHAMPION, ModelRegistry, Version, holder
from pipelines.configuration import Settings
from pipelines.engines.sagemaker import aws_client, aws_errors

APPROVER = "approver"
"""Tag of every version that was champion at some time: who made it so."""
COMPARED_WITH = "compared_with"
BASE = "base"
"""What a package says that it was compared with where nothing served yet."""


class StaleComparison(PipelineError):
    """The version was compared with another champion than the one that serves now."""

    exit_code = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What serves after a command, and what served before it."""

    name: str
    now: str
    before: str | None
    note: str = ""


class Champions(Protocol):
    """The versions of one model type on one tier."""

    def promote(self, version: str | None, by: str, stale: bool = False) -> Change:
        """Make a version the champion, by default the one that waits.

        Raises UsageError where there is none such, StaleComparison where the champion that it was compared with serves no
        more, unless `stale`.
        """
        ...

    def roll_back(self, by: str) -> Change:
        """Give the place back to the champion before. Raises UsageError where there is none."""
        ...


@dataclass(frozen=True, kw_only=True)
class AliasChampions:
    """MLflow's registry."""

    registry: ModelRegistry
    model_type: str
    tier: Tier

    @property
    def name(self) -> str:
        return f"{self.model_type}-{self.tier}"

    def promote(self, version: str | None, by: str, stale: bool = False) -> Change:
        versions = self._versions()
        champion = holder(versions, CHAMPION)
        chosen = self._chosen(versions, version)
        over = chosen.tags.get(COMPARED_WITH)
        if champion and champion.number == chosen.number:
            return Change(name=self.name, now=str(chosen.number), before=str(champion.number), note="it served already")
        if champion and over != champion.policy_digest and not stale:
            raise StaleComparison(
                f"{self.name} version {chosen.number} was compared with another policy than version {champion.number}, "
                "which serves now: run it again, or pass --stale to promote it all the same"
            )
        self.registry.promote(chosen, approver=by)
        return Change(name=self.name, now=str(chosen.number), before=str(champion.number) if champion else None)

    def roll_back(self, by: str) -> Change:
        versions = self._versions()
        champion = holder(versions, CHAMPION)
        earlier = [v for v in versions if champion and v.number < champion.number and APPROVER in v.tags]
        if champion is None or not earlier:
            raise UsageError(f"{self.name}: no version served before: there is nothing to go back to")
        self.registry.promote(earlier[-1], approver=by)
        return Change(name=self.name, now=str(earlier[-1].number), before=str(champion.number))

    def _versions(self) -> list[Version]:
        found = self.registry.versions(self.model_type, self.tier)
        if not found:
            raise UsageError(f"{self.name}: no version is registered: run it first")
        return found

    def _chosen(self, versions: list[Version], version: str | None) -> Version:
        if version is None:
            waiting = holder(versions, CHALLENGER)
            if waiting is None:
                raise UsageError(f"{self.name}: no version waits for a person: name one as {self.name}:VERSION")
            return waiting
        numbers = {str(v.number): v for v in versions}
        if version not in numbers:
            raise unknown(f"version of {self.name}", version, numbers)
        return numbers[version]


@dataclass(frozen=True, kw_only=True)
class PackageChampions:
    """SageMaker's registry of one account, and the alias in its MLflow."""

    region: str
    group: str
    alias: Callable[[dict[str, str]], None]
    """Moves MLflow's alias to the version that a package's metadata names."""

    def promote(self, version: str | None, by: str, stale: bool = False) -> Change:
        serving = self._newest("Approved")
        package = self._waiting() if version is None else version
        details = describe_package(self.region, package)
        compared = details.get("CustomerMetadataProperties", {}).get(COMPARED_WITH, BASE)
        if serving != package:
            if compared != (serving or BASE) and not stale:
                raise StaleComparison(
                    f"{package} was compared with {compared}, and {serving or BASE} serves now: run it again, or pass "
                    "--stale to promote it all the same"
                )
            self._set(package, "Approved", f"promoted by {by}")
            if (now := self._newest("Approved")) != package:
                self._set(package, "PendingManualApproval", "a newer version serves")
                raise UsageError(f"{now} is newer than {package} and goes on serving: roll that one back first")
        self._move_alias(package, details)
        return Change(name=self.group, now=package, before=serving)

    def roll_back(self, by: str) -> Change:
        approved = newest_packages(self.region, self.group, "Approved", 2)
        if len(approved) < 2:
            raise UsageError(f"{self.group}: {len(approved)} approved versions: there is nothing to go back to")
        champion, before = approved
        # Rejected, so that no distillation takes it for a teacher.
        self._set(champion, "Rejected", f"rolled back by {by}")
        self._move_alias(before, describe_package(self.region, before))
        return Change(name=self.group, now=before, before=champion)

    def _move_alias(self, package: str, details: dict[str, Any]) -> None:
        try:
            self.alias(details.get("CustomerMetadataProperties", {}))
        except PipelineError as error:
            raise PipelineError(
                f"{package} serves, but MLflow's alias is where it was: {error}: run the same command again"
            ) from error

    def _waiting(self) -> str:
        found = self._newest("PendingManualApproval")
        if found is None:
            raise UsageError(f"{self.group}: no version waits for a person: name a package by its ARN")
        return found

    def _newest(self, status: str) -> str | None:
        return next(iter(newest_packages(self.region, self.group, status, 1)), None)

    def _set(self, package: str, status: str, why: str) -> None:
        with aws_errors(package):
            aws_client("sagemaker", self.region).update_model_package(
                ModelPackageArn=package, ModelApprovalStatus=status, ApprovalDescription=why
            )


def package_group(environment: str, model_type: str, tier: str) -> str:
    """The model package group of one model type on one tier, as Terraform names it."""
    return f"srl-rlvr-{environment}-{model_type.replace('_', '-')}-{tier}"


def newest_packages(region: str, group: str, status: str, count: int) -> list[str]:
    """ARNs of at most `count` packages of a group with that approval status, newest first."""
    with aws_errors(group):
        found = aws_client("sagemaker", region).list_model_packages(
            ModelPackageGroupName=group,
            ModelApprovalStatus=status,
            SortBy="CreationTime",
            SortOrder="Descending",
            MaxResults=count,
        )
    return [item["ModelPackageArn"] for item in found["ModelPackageSummaryList"]][:count]


def describe_package(region: str, package: str) -> dict[str, Any]:
    with aws_errors(package):
        return aws_client("sagemaker", region).describe_model_package(ModelPackageName=package)


def champions_of(what: str, settings: Settings, tracking_uri: str) -> tuple[Champions, str | None]:
    """The registry that holds `what`, and the version that it names, if any.

    `what` is MODELTYPE-TIER, MODELTYPE-TIER:VERSION, or a model package's ARN. Raises UsageError for anything else.
    """
    account = settings.environment.sagemaker
    registry = ModelRegistry(tracking_uri)
    if what.startswith("arn:"):
        parts = what.split(":")
        if account is None or len(parts) != 6 or not parts[5].startswith("model-package/"):
            raise UsageError(f"{what} is no model package of environment {settings.name!r}: pass --env of its account")
        group = parts[5].split("/")[1]
        model_type, _, tier = group.removeprefix(f"srl-rlvr-{settings.name}-").rpartition("-")
        alias = alias_mover(registry, model_type.replace("-", "_"), tier_named(tier, what))
        return PackageChampions(region=parts[3], group=group, alias=alias), what
    name, _, version = what.partition(":")
    model_type, _, tier_name = name.rpartition("-")
    tier = tier_named(tier_name, what)
    if account is None:
        return AliasChampions(registry=registry, model_type=model_type, tier=tier), version or None
    group = package_group(settings.name, model_type, tier)
    package = f"arn:aws:sagemaker:{account.region}:{account.account_id}:model-package/{group}/{version}"
    champions = PackageChampions(region=account.region, group=group, alias=alias_mover(registry, model_type, tier))
    return champions, package if version else None


def tier_named(name: str, what: str) -> Tier:
    if name not in list(Tier):
        raise UsageError(f"{what!r} ends in no tier: write MODELTYPE-TIER, for example npc_dialogue-gold, or an ARN")
    return Tier(name)


def alias_mover(registry: ModelRegistry, model_type: str, tier: Tier) -> Callable[[dict[str, str]], None]:
    """Moves the champion alias to the version that holds the policy of a package."""

    def move(metadata: dict[str, str]) -> None:
        digest = metadata.get("policy_digest")
        if digest is None:
            raise PipelineError("the package names no policy_digest: it was not made by the night")
        version = registry.find(f"{model_type}-{tier}", digest)
        if version is None:
            raise PipelineError(f"MLflow holds no version of {model_type}-{tier} with policy {digest[:12]}")
        registry.promote(version, approver="package")

    return move
