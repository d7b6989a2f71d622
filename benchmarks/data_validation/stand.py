"""The stage's two phases over what a test hands them, and mutations after which no record can be sound."""

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from benchmarks.data_validation.corpus import NATURAL, Corpus
from components.data_validation.decide import decide
from components.data_validation.examine import Examiner
from components.data_validation.intake import raw_lines, shards
from components.data_validation.spec import Caps, DataValidationConfig
from components.shared.contracts.records import Rejected, Split

REQUIRED = {
    (): ("id", "scenario", "teacher", "context", "steps", "attempt", "verdict"),
    ("scenario",): ("id", "model_type", "group", "split", "prompt", "state", "difficulty"),
    ("steps", 0): ("index", "title", "text", "action", "reward"),
    ("verdict",): ("verifier", "score", "passed", "gates", "criteria"),
}
"""Fields that a trajectory may not be kept without, by the object they stand in."""
NUMBERS = ((("steps", 0), "reward"), (("verdict",), "score"), (("scenario",), "difficulty"))
"""Fields in [0, 1]."""


def at(record: dict[str, Any], path: tuple[str | int, ...]) -> Any:
    for key in path:
        record = record[key]
    return record


class Stand:
    """The natural-text checks over a few scenarios, and a sound line of each."""

    def __init__(self, folder: Path):
        corpus = Corpus.of("npc_dialogue")
        self.config = DataValidationConfig(**NATURAL)
        drawn = [corpus.scenario(number) for number in range(40)]
        taught = [scenario for scenario in drawn if scenario.split != Split.TEST]
        self.folder = folder
        self.examiner = Examiner(self.config, corpus.trainer)
        self.scenarios = self.examiner.scenarios([s.model_dump_json().encode() for s in drawn], folder)
        self.sound = [corpus.trajectory(i, scenario).model_dump_json().encode() for i, scenario in enumerate(taught)]

    def kept(self, items: list[bytes | Rejected]) -> list[bytes]:
        """The lines that are kept; every other one is in quarantine."""
        sifted = self.examiner.trajectories(items, self.scenarios, self.folder)
        decision = decide(self.config, sifted.rows)
        assert len(decision.kept) + len(decision.gone) + len(sifted.refused) == sifted.read == len(items)
        for _, _, line in sifted.refused.ordered():
            rejected = Rejected.model_validate_json(line)
            assert rejected.rule and rejected.reason
        return [sifted.spool.read(row.place) for row in decision.kept]

    def read(self, suffix: str, content: bytes) -> list[bytes | Rejected]:
        """What comes of a file."""
        folder = self.folder / "input"
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        (folder / f"trajectories{suffix}").write_bytes(content)
        return list(raw_lines(shards(folder, "trajectories"), Caps()))


@st.composite
def mutations(draw):
    """An operator after which a record cannot be sound, whatever it was."""
    kind = draw(st.sampled_from(["cut", "drop", "add", "number", "null", "byte", "id", "text", "index", "twice"]))
    path = draw(st.sampled_from(sorted(REQUIRED, key=str)))
    key = draw(st.sampled_from(REQUIRED[path]))
    where, field = draw(st.sampled_from(NUMBERS))
    outside = draw(
        st.one_of(st.floats(max_value=-1e-9, allow_nan=False), st.floats(min_value=1.0000001, allow_nan=False))
    )
    share = draw(st.floats(0.001, 0.999))
    word = draw(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8))
    byte = draw(st.integers(0x80, 0xFF))

    def mutate(raw: bytes) -> bytes:
        if kind == "cut":  # no proper beginning of an object is an object
            return raw[: max(1, int(share * (len(raw) - 1)))]
        if kind == "byte":  # a byte of 0x80 or more between two of ASCII is no UTF-8
            place = raw.index(b'"text":"') + 8
            return raw[:place] + bytes([byte]) + raw[place:]
        if kind == "twice":
            return raw[:-1] + f',"{key if not path else "id"}":null}}'.encode()
        record = json.loads(raw)
        if kind == "drop":
            del at(record, path)[key]
        elif kind == "add":  # shapes are closed
            at(record, path)[f"{word}_"] = word
        elif kind == "null":  # of all fields only the verdict may be null, and then nothing is verified
            at(record, path)[key] = None
        elif kind == "number":
            at(record, where)[field] = outside
        elif kind == "id":
            record["id"] = record["id"][::-1] + word
        elif kind == "text":  # the id is a digest of the text
            record["steps"][0]["text"] += f" {word}"
        else:
            record["steps"][0]["index"] += len(word)
        return json.dumps(record).encode()

    return mutate
