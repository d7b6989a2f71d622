"""Start a command once for every device of the job's hosts, by torchrun.

The strategy says whether there is anything to start; the hosts are torchrun's own variables (NNODES, NODE_RANK,
MASTER_ADDR, MASTER_PORT) or SageMaker's resourceconfig.json. The processes find each other by those and run the very same
command; the one that launched them passes a SIGTERM on and waits, so that their state is saved.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from components.shared.contracts.environment import PROCESSES, STRATEGY, Strategy
from components.shared.contracts.errors import UsageError, unknown

RESOURCES = Path("input/config/resourceconfig.json")
"""Where SageMaker says which hosts a job has, below /opt/ml."""
PORT = 29500


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """The hosts of a job, as this one sees them."""

    hosts: int = 1
    rank: int = 0
    """This host's place among them."""
    master: str = "127.0.0.1"
    port: int = PORT


def strategy_of_job(environment: Mapping[str, str] = os.environ) -> Strategy:
    """The strategy that the engine asks for. Raises UsageError for an unknown one."""
    name = environment.get(STRATEGY) or Strategy.SINGLE
    if name not in list(Strategy):
        raise unknown(STRATEGY, name, [strategy.value for strategy in Strategy])
    return Strategy(name)


def cluster_of_job(environment: Mapping[str, str] = os.environ) -> Cluster:
    """The job's hosts, by torchrun's variables or by SageMaker's file. Raises UsageError where they contradict."""
    if "NNODES" in environment:
        hosts, rank = int(environment["NNODES"]), int(environment.get("NODE_RANK", 0))
        if not 0 <= rank < hosts:
            raise UsageError(f"NODE_RANK = {rank} of NNODES = {hosts}: number the hosts from 0")
        master, port = environment.get("MASTER_ADDR", "127.0.0.1"), int(environment.get("MASTER_PORT", PORT))
        return Cluster(hosts=hosts, rank=rank, master=master, port=port)
    path = Path(environment.get("SM_LOCAL_ROOT", "/opt/ml")) / RESOURCES
    if not path.is_file():
        return Cluster()
    found = json.loads(path.read_text(encoding="utf-8"))
    names = sorted(found["hosts"])
    return Cluster(hosts=len(names), rank=names.index(found["current_host"]), master=names[0])


def torchrun(arguments: Sequence[str], cluster: Cluster, processes: int) -> list[str]:
    """The command that runs `python ARGUMENTS` in so many processes on this host."""
    where = ["--standalone"]
    if cluster.hosts > 1:
        where = [f"--node-rank={cluster.rank}", f"--master-addr={cluster.master}", f"--master-port={cluster.port}"]
    count = [f"--nnodes={cluster.hosts}", f"--nproc-per-node={processes}"]
    return [sys.executable, "-m", "torch.distributed.run", *count, *where, "--no-python", sys.executable, *arguments]


def run_on_all_devices(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> int | None:
    """Run `python ARGUMENTS` on every device and return the exit code.

    None where this process is to do the work itself: it was launched already, or one process is all there is.
    """
    if "RANK" in environment or strategy_of_job(environment) == Strategy.SINGLE:
        return None
    cluster, processes = cluster_of_job(environment), processes_of_host(environment)
    if cluster.hosts * processes == 1:
        return None
    child = subprocess.Popen(
        torchrun(arguments, cluster, processes),
        env={"OMP_NUM_THREADS": "1", **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    stopped = False

    def pass_on(*_: int | FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        child.send_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        for line in child.stderr or ():
            # Of a stop that was asked for, torchrun leaves a traceback; only the stage's own line says something.
            if not stopped or line.startswith("error: "):
                print(line, end="", file=sys.stderr, flush=True)
        code = child.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    return 128 + signal.SIGTERM if stopped else code


def processes_of_host(environment: Mapping[str, str] = os.environ) -> int:
    """One for each GPU, or as many as the environment says."""
    if PROCESSES in environment:
        return int(environment[PROCESSES])
    import torch

    return max(1, torch.cuda.device_count())


def one_of_many(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether other processes run the same command beside this one."""
    return int(environment.get("WORLD_SIZE", "1")) > 1


def main_process(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the one, of all that run the same command, whose outputs count."""
    return environment.get("RANK", "0") == "0"


@contextlib.contextmanager
def only_main_process_prints() -> Iterator[None]:
    """Standard output once, not once a process."""
    if main_process():
        yield
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
