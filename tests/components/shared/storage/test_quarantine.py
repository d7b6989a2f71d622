import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.contracts.errors import PipelineError
from components.shared.contracts.records import Record, Rejected, Score
from components.shared.storage.quarantine import lines, refuse, sift


class Grade(Record):
    name: str
    score: float = Score
    notes: dict = {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_sound_line_becomes_its_record():
    assert sift(b'{"name": "a", "score": 0.5}', Grade, "stage") == Grade(name="a", score=0.5)


@pytest.mark.parametrize(
    ("line", "rule", "reason"),
    [
        (b'{"name": "a", "score": 1.5}', "range", "score: Input should be less than or equal to 1"),
        (b'{"name": "a", "score": NaN}', "range", "score: Input should be a finite number"),
        (b'{"name": "a", "score": 1, "notes": {"x": 1e999}}', "range", "1e999 is not a finite number"),
        (b'{"name": "a", "score": 1, "notes": {"x": NaN}}', "range", "NaN is not a JSON number"),
        (b'{"name": "a", "score": 1, "name": "b"}', "schema", "an object has a key twice"),
        (b'{"score": 1}', "schema", "name: Field required"),
        (b'{"name": "a"', "schema", "line: Invalid JSON: EOF"),
        (b"", "schema", "line: Invalid JSON: EOF"),
        (b"\xef\xbb\xbf{}", "schema", "line: Invalid JSON"),
        (b"[" * 100_000, "schema", "line: Invalid JSON: recursion limit"),
    ],
)
def test_a_bad_line_is_refused_with_rule_and_reason(line, rule, reason):
    rejected = sift(line, Grade, "here")
    assert (rejected.stage, rejected.rule) == ("here", rule)
    assert rejected.reason.startswith(reason)


@given(JSON)
def test_a_record_of_json_stays_json_in_quarantine(value):
    rejected = refuse(json.dumps(value).encode(), "s", "r", "why")
    assert Rejected.model_validate_json(rejected.model_dump_json()).record == value


@given(st.binary())
def test_whatever_the_bytes_quarantine_can_be_written_and_read(line):
    rejected = refuse(line, "s", "r", "why")
    assert Rejected.model_validate_json(rejected.model_dump_json()) == rejected


@pytest.mark.parametrize("line", [b'{"a": 1, "a": 2}', b'"\\ud800"', b"1e999", b"[" * 900 + b"]" * 900])
def test_what_parsing_would_lose_stays_text(line):
    assert refuse(line, "s", "r", "why").record == line.decode()


def test_lines_end_at_newlines_alone(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes("a\u2028b\r\n\nlast".encode())
    assert list(lines(path)) == ["a\u2028b\r".encode(), b"", b"last"]
    with pytest.raises(PipelineError, match="no file"):
        list(lines(tmp_path / "none"))
