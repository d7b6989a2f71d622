"""Runs the stage in forked processes, each of which may kill itself at a write: imports are paid for once.

Reads one JSON line a run, {"config", "folder", "kill_at", "kill_after"}; answers with the exit status. `kill_at` counts
write boundaries from 1, before and after each transaction of the record, each flush and each rename; `kill_after` are
seconds. A run that ends by itself leaves the number of boundaries that it passed.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import components.trajectory_generation.run  # noqa: F401
from components.entrypoints.execution import Request, execute
from components.shared.collaboration import endpoint  # noqa: F401
from components.shared.collaboration.request_cache import RequestCache
from components.trajectory_generation.spec import SPEC


class Boundaries:
    def __init__(self, kill_at: int | None):
        self.passed, self._kill_at = 0, kill_at

    def passing(self) -> None:
        self.passed += 1
        if self.passed == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: type | object, name: str) -> None:
        real = getattr(owner, name)

        def wrapped(*arguments, **options):
            self.passing()
            result = real(*arguments, **options)
            self.passing()
            return result

        setattr(owner, name, wrapped)


def work(order: dict) -> int:
    folder = Path(order["folder"])
    boundaries = Boundaries(order["kill_at"])
    for owner, name in ((RequestCache, "_commit"), (os, "fsync"), (Path, "replace")):
        boundaries.around(owner, name)
    os.environ["SRL_RLVR_REQUEST_CACHE"] = str(folder / "requests.sqlite")
    outputs = {"trajectories": folder / "trajectories", "report": folder / "report"}
    execute(Request(spec=SPEC, config=order["config"], inputs={}, outputs=outputs))
    (folder / "boundaries").write_text(str(boundaries.passed))
    return 0


for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os._exit(work(order))
    if order["kill_after"] is not None:
        time.sleep(order["kill_after"])
        os.kill(pid, signal.SIGKILL)  # not waited for yet, so the id is still its own
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
