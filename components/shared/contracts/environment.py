"""Environment variables by which an engine tells a stage about the job that it runs in. None of them changes a result."""

from enum import StrEnum


class Strategy(StrEnum):
    """How a training job spreads a model over its devices."""

    SINGLE = "single"
    DDP = "ddp"
    FSDP = "fsdp"
    DEEPSPEED = "deepspeed"


STRATEGY = "SRL_RLVR_STRATEGY"
"""The job's `Strategy`."""
PROCESSES = "SRL_RLVR_PROCESSES"
"""Processes to start on a host whose strategy is not `single`; one for each GPU where it is not set."""
CHECKPOINTS = "SRL_RLVR_CHECKPOINTS"
"""Folder that outlives the job's machine: state saved there is found by the next attempt."""
CHECKPOINT_INTERVAL = "SRL_RLVR_CHECKPOINT_INTERVAL_S"
"""Seconds between two saves; half an hour where it is not set."""
CHECKPOINT_STEPS = "SRL_RLVR_CHECKPOINT_STEPS"
"""Updates between two saves, beside the seconds; none where it is not set."""
EXECUTION_KEY = "SRL_RLVR_EXECUTION_KEY"
"""Identity of the execution, for the lineage of what it registers."""
REVISION = "SRL_RLVR_REVISION"
"""Commit of the code that runs, for the lineage of what it registers."""
IMAGE = "SRL_RLVR_IMAGE"
"""The image that the job runs in: its digest where the engine knows it, else the digest of the source in it."""
ECHO_METRICS = "SRL_RLVR_ECHO_METRICS"
"""Set where what is measured must also go to standard output, line by line, since nothing else leaves the job at work."""
REQUEST_CACHE = "SRL_RLVR_REQUEST_CACHE"
"""SQLite file of every request to a teacher and its answer; what is recorded there is never asked again."""
