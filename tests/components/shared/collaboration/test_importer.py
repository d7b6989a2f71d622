import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.entrypoints.execution import Request, execute
from components.shared.collaboration.importer import ImportFormat, import_file
from components.shared.collaboration.record_streams import CHUNK, rows
from components.shared.contracts.errors import GateError, PipelineError, UsageError
from components.shared.contracts.records import Rejected, Scenario, Split, Trajectory, Verdict
from components.shared.contracts.stage import ArtifactKind
from components.shared.storage.artifacts import verify
from components.shared.storage.jsonl import read_jsonl
from components.shared.trainers.base_trainer import Habits
from components.shared.trainers.trainer_factory import create_trainer
from components.verification.spec import SPEC as VERIFICATION

FLAWLESS = Habits(visible=1.0, hidden=1.0, noise=0.0)
PROBLEMS = [
    {
        "question": f"A mill grinds {a} sacks and then {b} more. How many?",
        "answer": f"{a} + {b} = <<{a}+{b}={a + b}>>{a + b} sacks.\n#### {a + b}",
    }
    for a, b in ((3, 4), (12, 30), (100, 1), (7, 9))
]


def written(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def read(folder, name, shape):
    return list(read_jsonl(folder / f"{name}.jsonl", shape))


@pytest.fixture(scope="module")
def npc():
    return create_trainer("npc_dialogue", "wrackmere")


@pytest.fixture(scope="module")
def demonstrations(npc):
    rng = random.Random(5)
    return [
        npc.trajectory(s, npc.demonstrate(s, rng, FLAWLESS), teacher="x", context=(), attempt=1)
        for s in npc.scenarios(rng, 30, [Split.TRAIN])
    ]


def as_messages(trajectory, form):
    steps = [{"title": s.title, "text": s.text} for s in trajectory.steps]
    numbered = "\n".join(f"{n}. **{s['title']}** {s['text']}" for n, s in enumerate(steps, 1))
    content = json.dumps({"steps": steps}) if form == "json" else numbered
    turns = [("system", "be brief"), ("user", trajectory.scenario.prompt), ("assistant", content)]
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


@pytest.mark.parametrize("form", ["json", "numbered"])
def test_chat_messages_become_the_trajectories_that_they_show(tmp_path, npc, demonstrations, form):
    source = written(tmp_path / "in.jsonl", [as_messages(t, form) for t in demonstrations])
    found = import_file(source, ImportFormat.MESSAGES, "npc_dialogue", tmp_path / "out")
    assert (found.read, found.accepted, found.quarantined) == (30, 30, {})
    imported = read(tmp_path / "out", "trajectories", Trajectory)
    assert [(t.id, t.scenario, t.steps) for t in imported] == [(t.id, t.scenario, t.steps) for t in demonstrations]


def test_imported_trajectories_claim_nothing_and_pass_verification_by_themselves(tmp_path, demonstrations):
    lie = Verdict(verifier="liar@1", score=1.0, passed=True, gates={}, criteria={})
    records = [t.model_copy(update={"verdict": lie}).model_dump(mode="json") for t in demonstrations]
    import_file(written(tmp_path / "in.jsonl", records), ImportFormat.TRAJECTORIES, "npc_dialogue", tmp_path / "out")
    assert all(t.verdict is None for t in read(tmp_path / "out", "trajectories", Trajectory))
    verify(tmp_path / "out", ArtifactKind.TRAJECTORIES)
    outputs = {"verified": tmp_path / "verified", "report": tmp_path / "report"}
    report = execute(Request(spec=VERIFICATION, config={}, inputs={"trajectories": tmp_path / "out"}, outputs=outputs))
    assert report.details["passed"] == 30


def test_gsm8k_lines_become_steps_and_the_last_line_the_outcome(tmp_path):
    rows = [*PROBLEMS[:2], {"problem": PROBLEMS[2]["question"], "solution": PROBLEMS[2]["answer"]}]
    found = import_file(written(tmp_path / "in.jsonl", rows), ImportFormat.GSM8K, "word_problems", tmp_path / "out")
    assert found.accepted == 3
    first, *_ = read(tmp_path / "out", "trajectories", Trajectory)
    assert [(s.title, s.text, s.reward) for s in first.steps] == [
        ("Work", "3 + 4 = <<3+4=7>>7 sacks.", 1.0),
        ("Answer", "#### 7", 1.0),
    ]
    assert first.scenario.state == {"question": rows[0]["question"], "answer": "7"}
    outputs = {"verified": tmp_path / "verified", "report": tmp_path / "report"}
    report = execute(Request(spec=VERIFICATION, config={}, inputs={"trajectories": tmp_path / "out"}, outputs=outputs))
    assert report.details["passed"] == 3


def test_word_problems_are_judged_by_their_calculations_and_rewarded_by_the_answer(tmp_path):
    wrong_sum = {**PROBLEMS[0], "answer": "3 + 4 = <<3+4=8>>8 sacks.\n#### 8"}
    from_nowhere = {**PROBLEMS[1], "answer": "They add up.\n#### 42"}
    import_file(
        written(tmp_path / "in.jsonl", [PROBLEMS[3], wrong_sum, from_nowhere]),
        ImportFormat.GSM8K,
        "word_problems",
        tmp_path / "out",
    )
    trainer = create_trainer("word_problems", "wrackmere")
    right, summed, nowhere = read(tmp_path / "out", "trajectories", Trajectory)
    verdicts = [trainer.verify(t.scenario, t.steps) for t in (right, summed, nowhere)]
    assert [(v.passed, v.score) for v in verdicts] == [(True, 1.0), (False, 0.5), (False, 0.5)]
    for text, reward in (("4+5\n#### 16", 1.0), ("#### $16.00", 1.0), ("#### 17", 0.0), ("sixteen", 0.0)):
        assert trainer.reward(right.scenario, text).total == reward == trainer.check(right.scenario, text).score


def test_what_cannot_be_read_is_quarantined_as_it_came_with_the_reason(tmp_path, demonstrations):
    good = as_messages(demonstrations[0], "json")
    user, said = good["messages"][1:]
    bad = [
        {"messages": [user]},
        {"messages": [said, user]},
        {"messages": [user, {"role": "assistant", "content": "I would rather not."}]},
        {"messages": [{"role": "user", "content": "tell me a joke"}, said]},
        {"messages": "none"},
    ]
    source = written(tmp_path / "in.jsonl", [good, *bad])
    with source.open("ab") as f:
        f.write(b'{"messages": [\n\xff\xfe\n')
    found = import_file(source, ImportFormat.MESSAGES, "npc_dialogue", tmp_path / "out")
    assert found.quarantined == {"scenario": 1, "schema": 3, "steps": 1, "turns": 2}
    assert found.read == found.accepted + sum(found.quarantined.values()) == 8
    quarantine = read(tmp_path / "out", "quarantine", Rejected)
    assert [r.record for r in quarantine[:5]] == bad and all(r.reason for r in quarantine)
    assert len(read(tmp_path / "out", "scenarios", Scenario)) == 1


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_every_container_gives_the_same(tmp_path, suffix):
    text = "".join(json.dumps(row) + "\n" for row in PROBLEMS).encode()
    file = tmp_path / f"in.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(PROBLEMS), file)
    elif suffix.endswith("zst"):
        with pa.output_stream(str(file), compression="zstd") as stream:
            stream.write(text)
    else:
        file.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    import_file(file, ImportFormat.GSM8K, "word_problems", tmp_path / "out")
    plain = written(tmp_path / "plain.jsonl", PROBLEMS)
    import_file(plain, ImportFormat.GSM8K, "word_problems", tmp_path / "expected")
    assert verify(tmp_path / "out") == verify(tmp_path / "expected")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 3 * CHUNK), max_size=4), st.booleans())
def test_lines_are_whole_wherever_a_chunk_ends(tmp_path, lengths, ended):
    lines = [b"x" * length for length in lengths]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines) + b"\n" * ended)
    assert list(rows(tmp_path / "in.jsonl")) == [line for line in lines if line]


def test_a_file_that_ends_too_early_leaves_nothing_behind(tmp_path):
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in PROBLEMS * 500).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(PipelineError, match=r"cut\.jsonl\.gz"):
        import_file(tmp_path / "cut.jsonl.gz", ImportFormat.GSM8K, "word_problems", tmp_path / "out")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 nothing more")
    with pytest.raises(PipelineError, match=r"no\.parquet cannot be read"):
        import_file(tmp_path / "no.parquet", ImportFormat.GSM8K, "word_problems", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_of_another_format_and_a_missing_one_are_errors(tmp_path):
    source = written(tmp_path / "in.jsonl", PROBLEMS)
    with pytest.raises(GateError, match=r"no row of .* can be read as messages of word_problems \(4 by schema\)"):
        import_file(source, ImportFormat.MESSAGES, "word_problems", tmp_path / "out")
    with pytest.raises(UsageError, match="no file"):
        import_file(tmp_path / "none", ImportFormat.GSM8K, "word_problems", tmp_path / "out")
    with pytest.raises(UsageError, match="did you mean 'word_problems'"):
        import_file(source, ImportFormat.GSM8K, "word_problem", tmp_path / "out")
    with pytest.raises(UsageError, match="are imported, not drawn"):
        next(create_trainer("word_problems", "wrackmere").scenarios(random.Random(0), 1, [Split.TRAIN]))
