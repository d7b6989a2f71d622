"""Functions called in processes that are forked from one which has loaded the training libraries: that takes seconds."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from components.shared.contracts.environment import PROCESSES

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([f"components.{stage}.run" for stage in ("srl", "rlvr", "distillation")])


def call(target: Callable, *arguments: object, log: Path, processes: int = 1, **variables: str) -> None:
    """Call an importable function in so many processes at once, which know their ranks as under torchrun.

    What they print goes to `log`. Fails where one of them ends in anything but 0 or None.
    """
    everywhere = {**variables, PROCESSES: str(processes)}
    if processes > 1:
        everywhere |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(processes)}
        everywhere |= {"LOCAL_WORLD_SIZE": str(processes)}
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {} for rank in range(processes)]
    ranks = [CONTEXT.Process(target=_rank, args=(target, arguments, everywhere | place, log)) for place in places]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0] * processes, log.read_text()


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _rank(target: Callable, arguments: tuple, variables: dict[str, str], log: Path) -> None:
    os.environ.update(variables)
    with log.open("a") as out:
        for standard in (1, 2):
            os.dup2(out.fileno(), standard)
    sys.exit(target(*arguments))
