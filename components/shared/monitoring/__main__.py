"""The night's look at what serves, as its container runs it: each tier's answers against its version's own evidence.

    python -m components.shared.monitoring --model-type T --night 2026-01-06 --logs LOGS --out OUT \
        --evidence bronze=FOLDER silver=none gold=FOLDER

Folders may be s3:// prefixes. OUT/MODELTYPE/2026-01-06.json has a verdict for each tier: none, warn, block, or unknown where
nothing serves or nothing can be compared. The state machine publishes the indices and raises the alarm.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from components.shared.contracts.errors import GateError, program
from components.shared.contracts.records import Tier
from components.shared.contracts.tier_places import tier_and_place
from components.shared.monitoring.served import NOTHING_SERVES, answered, compare, logs_of
from components.shared.storage.places import fetched, put_text
from components.shared.trainers.base_trainer import ModelTypeTrainer
from components.shared.trainers.trainer_factory import create_trainer


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and write; 0 whatever the verdicts are. An error is one line, and its code the exit code."""
    parser = argparse.ArgumentParser(prog="python -m components.shared.monitoring", description=__doc__)
    for name in ("model-type", "night", "logs", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--evidence", nargs="+", required=True, metavar="TIER=FOLDER")
    parser.add_argument("--world", default="wrackmere")
    given = parser.parse_args(arguments)
    evidence = dict(
        tier_and_place("--evidence", item, f"{NOTHING_SERVES} where nothing serves") for item in given.evidence
    )
    trainer = create_trainer(given.model_type, given.world)
    found = verdicts(logs_of(given.logs, given.night), evidence, trainer)
    said = {"night": given.night, "model_type": given.model_type, "tiers": found}
    put_text(f"{given.out.rstrip('/')}/{given.model_type}/{given.night}.json", json.dumps(said, indent=1) + "\n")
    for one in found:
        print(f"{one['tier']}: {one['verdict']}: {one['detail']}")
    return 0


def verdicts(logs: str, evidence: Mapping[Tier, str], trainer: ModelTypeTrainer) -> list[dict[str, Any]]:
    """What is to be said of each tier, in the order of the tiers."""
    if not answered(logs):
        return [unknown_of(tier, f"no traces under {logs}") for tier in evidence]
    with fetched(logs) as folder:
        return [verdict(str(folder), tier, place, trainer) for tier, place in evidence.items()]


def verdict(logs: str, tier: Tier, evidence: str, trainer: ModelTypeTrainer) -> dict[str, Any]:
    if evidence == NOTHING_SERVES:
        return unknown_of(tier, "no version serves")
    try:
        found = compare([logs], evidence, trainer, tier)
    except GateError as error:
        return unknown_of(tier, str(error))
    detail = (
        f"what is asked has moved by {found.input_index:.2f}, the scores by {found.reward_index:.2f} (PSI, over "
        f"{found.compared} answers)"
    )
    return {"tier": tier, "verdict": found.verdict, "detail": detail, "compared": found.compared, **found.metrics}


def unknown_of(tier: Tier, why: str) -> dict[str, Any]:
    return {"tier": tier, "verdict": "unknown", "detail": why}


if __name__ == "__main__":
    sys.exit(main())
