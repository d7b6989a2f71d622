"""What a run found, counted: the one source of every number in its reports."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from components.data_validation.decide import Decision
from components.data_validation.examine import TAUGHT, Scenarios, Trajectories
from components.data_validation.profile import Profile
from components.data_validation.spec import SPEC
from components.data_validation.spool import SAMPLES, Refusals
from components.shared.contracts.errors import PipelineError
from components.shared.contracts.records import Rejected, Split
from components.shared.monitoring.stability import Moved


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Counts, samples and distributions of one run."""

    model_type: str
    counts: dict[str, Any]
    """`scenarios` and `trajectories` by fate and split; `rules`, `carried`, `classes` and `sources` by name."""
    samples: list[Rejected]
    """A few refused records of each rule."""
    profile: Profile
    drift: dict[str, Moved]
    warnings: list[str] = field(default_factory=list)


def find(
    model_type: str,
    scenarios: Scenarios,
    trajectories: Sequence[Trajectories],
    decision: Decision,
    refused: Sequence[Refusals],
    carried: Sequence[Rejected],
) -> Findings:
    """Count everything. Raises PipelineError where a record was lost or made."""
    fates = {
        "scenarios": {
            **fate("scenarios", scenarios.read, sum(map(len, scenarios.kept.values())), len(scenarios.refused)),
            **{str(split): len(kept) for split, kept in scenarios.kept.items()},
        },
        "trajectories": {
            **fate(
                "trajectories",
                sum(shard.read for shard in trajectories),
                len(decision.kept),
                sum(len(shard.refused) for shard in trajectories) + len(decision.gone),
            ),
            **{str(split): len(decision.of_split(split)) for split in TAUGHT},
        },
    }
    train = decision.of_split(Split.TRAIN)
    tables = {
        "rules": sum((each.rules for each in refused), Counter()),
        "carried": Counter(f"{r.stage}/{r.rule}" for r in carried),
        "classes": Counter(row.kind for row in train),
        "sources": Counter(row.source for row in train),
    }
    return Findings(
        model_type=model_type,
        counts=fates | {name: dict(sorted(table.items())) for name, table in tables.items()},
        samples=_samples(refused),
        profile=decision.profile,
        drift=dict(decision.drift),
    )


def fate(what: str, read: int, kept: int, quarantined: int) -> dict[str, int]:
    """The counts of one input. Raises PipelineError unless they add up."""
    if kept + quarantined != read:
        raise PipelineError(f"{what}: {kept} kept and {quarantined} refused of {read} read: {SPEC.name} lost some")
    return {"read": read, "kept": kept, "quarantined": quarantined}


def _samples(refused: Sequence[Refusals]) -> list[Rejected]:
    """The first few of each rule over all shards: the same ones however the records were spread."""
    found = sorted((sample for each in refused for sample in each.samples()), key=lambda s: (s[1].rule, s[0]))
    by_rule = itertools.groupby(found, key=lambda sample: sample[1].rule)
    return [rejected for _, samples in by_rule for _, rejected in itertools.islice(samples, SAMPLES)]
