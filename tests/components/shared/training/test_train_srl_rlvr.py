"""scripts/train_srl_rlvr.py on a small data set."""

import subprocess
import sys

import pytest

from components.shared.contracts.stage import ArtifactKind
from components.shared.storage.artifacts import read_manifest, verify

CONFIG = """
srl: {steps: 2, batch_size: 8}
rlvr: {steps: 2, prompts_per_step: 2, group_size: 2}
"""


@pytest.fixture
def train(workspace, environment, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)

    def run(*extra, expected=0):
        script = ["-c", "import train_srl_rlvr as s, sys; sys.exit(s.main())"]
        paths = [f"--dataset={workspace / 'dataset'}", f"--policy={workspace / 'teacher'}", f"--out={tmp_path / 'out'}"]
        command = [sys.executable, *script, *paths, f"--config={tmp_path / 'config.yaml'}", *extra]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == expected, done.stderr
        return done.stderr

    return run


@pytest.mark.slow
def test_rlvr_follows_srl_and_what_is_finished_is_not_run_again(train, tmp_path):
    train()
    policies = {stage: verify(tmp_path / "out" / stage / "policy", ArtifactKind.POLICY) for stage in ("srl", "rlvr")}
    assert policies["rlvr"].metadata["inputs"]["policy"] == policies["srl"].digest
    said = train()
    assert "srl: finished before" in said and "rlvr: finished before" in said
    (tmp_path / "config.yaml").write_text(CONFIG.replace("rlvr: {steps: 2", "rlvr: {steps: 1"))
    said = train()
    assert "srl: finished before" in said and "rlvr: finished before" not in said
    assert read_manifest(tmp_path / "out" / "rlvr" / "policy").metadata["config"]["steps"] == 1


def test_an_unknown_section_is_named(train, tmp_path):
    (tmp_path / "config.yaml").write_text("rlrv: {}")
    assert "unknown section 'rlrv': did you mean 'rlvr'?" in train(expected=2)
