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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("rules", "test", "--world", "wrackmeer"), "unknown world 'wrackmeer': did you mean 'wrackmere'?"),
        (("import", "x", "--format", "gsm8", "--model-type", "reasoning", "--out", "o"), "did you mean 'gsm8k'?"),
        (("serve", "context", "world:wrackmere"), "SRL_RLVR_CONTEXT_TOKEN"),
        (("serve", "router", "--config", "none.yaml"), "none.yaml"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(arguments, said):
    done = srl_rlvr(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
