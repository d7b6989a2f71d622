"""What serves a tier, changed by a person: promote the version that waits, or give the place back to the one before.

Whichever registry the environment names holds the versions. Where that is SageMaker's, the night also keeps every version in
the account's MLflow, and what is registered there is compared with MLflow's champion: its alias is moved after the change.
Promotion is idempotent: promoting what serves finishes what was interrupted.
"""

from dataclasses import dataclass

from components.shared.contracts.errors import PipelineError, UsageError, unknown
from components.shared.contracts.records import Tier
from components.shared.performance.model_registry import (
    CHALLENGER,
    CHAMPION,
    COMPARED_WITH,
    ModelRegistry,
    Registry,
    Version,
    holder,
    model_name,
    open_registry,
)
from components.shared.performance.sagemaker_registry import SageMakerRegistry
from pipelines.configuration import Settings


class StaleComparison(PipelineError):
    """The version was compared with another champion than the one that serves now."""

    exit_code = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Versions by their numbers: what serves after a command, and what served before it."""

    name: str
    now: str
    before: str | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Champions:
    """The versions of one model type on one tier."""

    registry: Registry
    mirror: ModelRegistry | None
    """MLflow's registry, where it keeps the same policies beside `registry`."""
    model_type: str
    tier: Tier

    @property
    def name(self) -> str:
        return model_name(self.model_type, self.tier)

    def promote(self, version: str | None, by: str, stale: bool = False) -> Change:
        """Make a version, by its number or its package's ARN, the champion; by default the one that waits.

        Raises UsageError where there is none such, StaleComparison where the champion that it was compared with serves no
        more, unless `stale`.
        """
        versions = self._versions()
        champion = holder(versions, CHAMPION)
        chosen = self._chosen(versions, version)
        now, before = str(chosen.number), str(champion.number) if champion else None
        if now == before:
            self._mirror(chosen)
            return Change(name=self.name, now=now, before=before, note="it served already")
        over = None if stale else chosen.tags.get(COMPARED_WITH, "")
        if not self.registry.promote(chosen, approver=by, over=over):
            raise StaleComparison(
                f"{self.name} version {now} was compared with another policy than version {before}, which serves now: "
                "run it again, or pass --stale to promote it all the same"
            )
        self._mirror(chosen)
        return Change(name=self.name, now=now, before=before)

    def roll_back(self, by: str) -> Change:
        """Give the place back to the champion before, and reject the one that had it. Raises UsageError where none was."""
        versions = self._versions()
        champion = holder(versions, CHAMPION)
        earlier = [v for v in versions if champion and v.number < champion.number and v.served]
        if champion is None or not earlier:
            raise UsageError(f"{self.name}: no version served before: there is nothing to go back to")
        self.registry.promote(earlier[-1], approver=by)
        # So that no student is distilled from it, and no later roll-back returns to it.
        self.registry.reject(champion, by, "rolled back")
        self._mirror(earlier[-1])
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
        named = {key: v for v in versions for key in (str(v.number), v.run)}
        if version not in named:
            raise unknown(f"version of {self.name}", version, [str(v.number) for v in versions])
        return named[version]

    def _mirror(self, chosen: Version) -> None:
        """Give MLflow's alias to its version of the same policy."""
        if self.mirror is None:
            return
        try:
            same = self.mirror.find(self.name, chosen.policy_digest)
            if same is None:
                raise PipelineError(f"it holds no version of {self.name} with policy {chosen.policy_digest[:12]}")
            self.mirror.promote(same, approver="package")
        except PipelineError as error:
            raise PipelineError(
                f"{self.name} version {chosen.number} serves, but MLflow's alias is where it was: {error}: once that is "
                f"mended, promote {self.name}:{chosen.number}"
            ) from error


def champions_of(what: str, settings: Settings, tracking_uri: str) -> tuple[Champions, str | None]:
    """The versions that `what` is one of, and which of them it names, if any.

    `what` is MODELTYPE-TIER, MODELTYPE-TIER:VERSION, or a model package's ARN. Raises UsageError for anything else.
    """
    uri = settings.environment.registry_uri or tracking_uri
    registry = open_registry(uri)
    name, _, version = what.partition(":")
    if what.startswith("arn:"):
        if not isinstance(registry, SageMakerRegistry):
            raise UsageError(f"{what} is no version of environment {settings.name!r}: pass --env of its account")
        name, version = registry.name_of(what), what
    model_type, _, tier = name.rpartition("-")
    if tier not in list(Tier):
        raise UsageError(f"{what!r} ends in no tier: write MODELTYPE-TIER, for example npc_dialogue-gold, or an ARN")
    mirror = ModelRegistry(tracking_uri) if uri != tracking_uri else None
    return Champions(registry=registry, mirror=mirror, model_type=model_type, tier=Tier(tier)), version or None
