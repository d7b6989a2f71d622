"""What production answered on a day, as its routers left it, and how far that is from what serves was registered with.

LOGS/YYYY-MM-DD/HOST/traces-*.jsonl: a router ships each complete file below the day on which it does so, so that every file
belongs to one night, the one that begins after that day.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date, timedelta
from pathlib import PurePosixPath

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Tier, Trace
from components.shared.contracts.weakness import ANSWERS, Evaluated
from components.shared.monitoring.drift import ServingDrift, serving_drift
from components.shared.serving.traces import FILES
from components.shared.storage.jsonl import read_jsonl
from components.shared.storage.places import fetched, names
from components.shared.storage.quarantine import lines, sift
from components.shared.trainers.base_trainer import ModelTypeTrainer

NOTHING_SERVES = "none"
"""What the evidence of a tier is called where no version serves."""


def logs_of(logs: str, night: str) -> str:
    """The folder, or the prefix, of what was answered on the day before `night`. Raises UsageError for no date."""
    try:
        day = date.fromisoformat(night) - timedelta(days=1)
    except ValueError as error:
        raise UsageError(f"night {night!r} is no date: write YYYY-MM-DD") from error
    return f"{logs.rstrip('/')}/{day}"


def answered(place: str) -> bool:
    """Whether any router left traces there."""
    return any(PurePosixPath(name).match(FILES) for name in names(place))


def compare(sources: Sequence[str], evidence: str, trainer: ModelTypeTrainer, tier: Tier) -> ServingDrift:
    """Hold the traces of `sources` against the report folder of the version that serves; folders or s3:// prefixes.

    Raises PipelineError for a place where nothing lies, and what `serving_drift` raises.
    """
    with fetched(evidence) as folder:
        baseline = list(read_jsonl(folder / ANSWERS, Evaluated))
    with ExitStack() as folders:
        files = [file for source in sources for file in sorted(folders.enter_context(fetched(source)).rglob(FILES))]
        # A router that was killed leaves its last line cut short; the collector puts such lines into quarantine.
        records = (sift(line, Trace, "drift") for file in files for line in lines(file))
        return serving_drift((record for record in records if isinstance(record, Trace)), baseline, trainer, tier)
