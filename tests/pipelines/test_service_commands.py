import json
import subprocess
import sys
from pathlib import Path

import pytest

from components.shared.contracts.stage import ArtifactKind
from components.shared.storage.artifacts import verify


def srl_rlvr(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from pipelines.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_the_examples_beside_the_rules_hold():
    done = srl_rlvr("rules", "test")
    assert done.returncode == 0
    assert " 0 wrong" in done.stdout


def test_demonstrations_are_imported_and_what_cannot_be_read_is_quarantined(tmp_path: Path):
    source, target = tmp_path / "solved.jsonl", tmp_path / "imported"
    rows = [{"question": "What is 2 + 3?", "answer": "2 + 3 = 5\n#### 5"}, {"qestion": 1}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("import", str(source), "--format", "gsm8k", "--model-type", "word_problems", "--out", str(target))
    done = srl_rlvr(*arguments)
    assert done.returncode == 0, done.stderr
    assert "1 of 2 rows imported" in done.stdout
    assert verify(target, ArtifactKind.TRAJECTORIES).metadata["model_type"] == "word_problems"
    assert "is there already" in srl_rlvr(*arguments).stderr


def test_each_of_the_three_models_answers_alone(tmp_path: Path):
    found = json.loads(srl_rlvr("ask", "retriever", "who rings the bell", "--depth", "2").stdout)["documents"]
    assert len(found) == 2 and found[0]["score"] >= found[1]["score"] and "bell" in found[0]["text"].lower()
    (tmp_path / "config.yaml").write_text("{model_type: story_generation, retrieval_depth: 3}")
    written = srl_rlvr("ask", "teacher", "--seed", "3", "--config", str(tmp_path / "config.yaml"))
    taught = json.loads(written.stdout)
    assert taught["scenario"]["model_type"] == "story_generation" and len(taught["context"]) == 3
    (tmp_path / "answer.json").write_text(written.stdout)
    judged = srl_rlvr("ask", "verifier", str(tmp_path / "answer.json"))
    assert judged.returncode == (0 if json.loads(judged.stdout)["passed"] else 3)
    taught["steps"] = taught["steps"][:1]
    (tmp_path / "answer.json").write_text(json.dumps(taught))
    cut = srl_rlvr("ask", "verifier", str(tmp_path / "answer.json"))
    assert cut.returncode == 3 and json.loads(cut.stdout)["score"] == 0


def test_rules_that_have_not_changed_ask_for_nothing(tmp_path: Path):
    for _ in range(2):
        assert "no rules have changed" in srl_rlvr("rules", "retrain", str(tmp_path)).stdout
    known = json.loads((tmp_path / "rules" / "wrackmere.json").read_text())
    known["versions"]["npc_dialogue"] = "older"
    (tmp_path / "rules" / "wrackmere.json").write_text(json.dumps(known))
    assert srl_rlvr("rules", "retrain", str(tmp_path)).stdout == "a Bronze is asked for: npc_dialogue\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("rules", "test", "--world", "wrackmeer"), "unknown world 'wrackmeer': did you mean 'wrackmere'?"),
        (("import", "x", "--format", "gsm8", "--model-type", "reasoning", "--out", "o"), "did you mean 'gsm8k'?"),
        (("serve", "context", "world:wrackmere"), "SRL_RLVR_CONTEXT_TOKEN"),
        (("serve", "context", "--fronted"), "SRL_RLVR_CONTEXT_TOKEN"),
        (("ask", "verifier", "pyproject.toml"), "pyproject.toml: file: Invalid JSON"),
        (("ask", "teacher", "--model-type", "npc_dialog"), "did you mean 'npc_dialogue'"),
        (("serve", "router", "--config", "none.yaml"), "none.yaml"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(arguments, said):
    done = srl_rlvr(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
