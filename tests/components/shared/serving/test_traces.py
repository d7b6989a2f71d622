import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.contracts.records import Scenario, Split, Tier, Trace
from components.shared.serving.redaction import redact
from components.shared.serving.traces import TraceWriter
from components.shared.storage.jsonl import read_jsonl

SERVED = {"model_type": "npc", "tier": Tier.GOLD, "policy": "npc-1", "latency_ms": 1.0}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("write to a.b+c@mail.example.org today", "write to <email> today"),
        ("call +49 170 1234567 or (555) 123-4567", "call <phone> or <phone>"),
        ("card 4111 1111 1111 1111 ok", "card <card> ok"),
        ("from 192.168.0.12 and 2001:db8:0:0:1::", "from <ip> and <ip>::"),
        ("key sk-abcdefghijklmnopqrstuv and AKIAABCDEFGHIJKLMNOP", "key <token> and <token>"),
        ("Authorization: Bearer abcdefghijklmnop1234", "Authorization: <token>"),
        ("postgres://bob:secret@db/x", "postgres://<url_credentials>@db/x"),
        ("DE89 3704 0044 0532 0130 00", "<iban>"),
        ("order 4111 1111 1111 1112 of 12 bells at 10:30 on 2026-11-24", None),
        ("the year 1234, the 3rd of 17 towers; 1.2.3 and 0.25", None),
    ],
)
def test_personal_data_goes_and_everything_else_stays(text, kept):
    assert redact(text) == (kept or text)


@given(st.text())
def test_redacting_twice_changes_nothing_more(text):
    assert redact(redact(text)) == redact(text)


def scenario(prompt):
    return Scenario(
        id="s", model_type="npc", group="g", split=Split.TRAIN, prompt=prompt, state={"who": "bell"}, difficulty=0.5
    )


def test_traces_are_redacted_scored_and_on_disk_at_once(tmp_path):
    writer = TraceWriter(tmp_path, scorer=lambda s, text: float(text == "dawn"))
    known = scenario("when rings the bell")
    writer.write(prompt=known.prompt, completion="dawn", scenario=known, **SERVED)
    personal = scenario("mail bell@tower.example")
    writer.write(prompt=personal.prompt, completion="to bell@tower.example", scenario=personal, **SERVED)
    first, second = read_jsonl(tmp_path / "traces-000001.jsonl", Trace)
    assert (first.scenario, first.score) == (known, 1.0)
    assert (second.scenario, second.score, second.completion) == (None, 0.0, "to <email>")
    assert first.id != second.id


def test_files_are_never_continued(tmp_path):
    for _ in range(2):
        writer = TraceWriter(tmp_path, max_lines=2)
        for _ in range(3):
            writer.write(prompt="x", completion="y", **SERVED)
        writer.close()
    counts = [len(list(read_jsonl(file, Trace))) for file in sorted(tmp_path.glob("traces-*.jsonl"))]
    assert counts == [2, 1, 2, 1]
