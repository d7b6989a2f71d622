"""The weekly refresh of the model selection, as its container runs it: what is measured now, against the table in effect.

    python -m components.shared.selection --registry URI --measured FILE --tables FOLDER

Files and folders may be s3:// URIs. The table in effect is FOLDER/current.json, none before the first. What is written is a
proposal, FOLDER/VERSION.json, with a line for each change; nothing routes by it until a person accepts it
(`srl-rlvr select --accept s3://.../VERSION.json --env prod`).
"""

import argparse
import sys
from collections.abc import Sequence

from components.shared.contracts.errors import program
from components.shared.selection.refresh import CURRENT, put_table, read_measured, read_table, refresh
from components.shared.storage.places import names


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Propose; 0 also where nothing would change. An error is one line, and its code the exit code."""
    parser = argparse.ArgumentParser(prog="python -m components.shared.selection", description=__doc__)
    for name in ("registry", "measured", "tables"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args(arguments)
    before = read_table(f"{given.tables}/{CURRENT}") if CURRENT in names(given.tables) else None
    proposal = refresh(given.registry, read_measured([given.measured]), before)
    for line in proposal.reasons or ("nothing is surely better or clearly cheaper than what serves",):
        print(line)
    print(f"proposed: {put_table(proposal, given.tables)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
