"""The night's collection of traces, as its container runs it: what the routers left on the day before, by `collect`.

    python -m components.distillation.nightly_traces --model-type T --night 2026-01-06 --logs LOGS --out OUT

Folders may be s3:// prefixes. The artifact is OUT/T/night=2026-01-06/; OUT/T/night=2026-01-06.json says what came of it:
`uri` and the counts, or no `uri` where production answered nothing, or too little to be worth distilling, and why. The state
machine notes what is there for distillation; where nothing is, the night learns from the experts' trajectories.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from pydantic import JsonValue

from components.distillation.trace_collector import Collection, collect, facts
from components.shared.contracts.errors import GateError, program
from components.shared.contracts.records import Tier
from components.shared.monitoring.served import answered, logs_of
from components.shared.storage.places import fetched, put_text


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Collect; 0 also where there is too little. An error is one line, and its code the exit code."""
    parser = argparse.ArgumentParser(prog="python -m components.distillation.nightly_traces", description=__doc__)
    for name in ("model-type", "night", "logs", "out"):
        parser.add_argument(f"--{name}", required=True)
    # Where these are not given, Collection's own defaults stand.
    parser.add_argument("--tier", type=Tier, choices=list(Tier), default=argparse.SUPPRESS, help="Whose answers.")
    parser.add_argument("--world", default=argparse.SUPPRESS)
    parser.add_argument("--min-scenarios", type=int, default=argparse.SUPPRESS)
    given = vars(parser.parse_args(arguments))
    logs, out = given.pop("logs"), given.pop("out").rstrip("/")
    wanted = Collection(**given)
    said = collected(logs_of(logs, wanted.night), out, wanted)
    put_text(f"{out}/{wanted.model_type}/night={wanted.night}.json", json.dumps(said, indent=1) + "\n")
    print(said["detail"])
    return 0


def collected(logs: str, out: str, wanted: Collection) -> dict[str, JsonValue]:
    """What came of the collection."""
    if not answered(logs):
        return {"night": wanted.night, "detail": f"no traces under {logs}"}
    try:
        with fetched(logs) as folder:
            done = collect([str(folder)], out, None, wanted)
    except GateError as error:
        return {"night": wanted.night, "detail": str(error)}
    return {"uri": done.uri, "detail": f"{done.kept} of {done.read} traces kept", **facts(wanted, done)}


if __name__ == "__main__":
    sys.exit(main())
