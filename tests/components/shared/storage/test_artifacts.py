import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.shared.contracts.errors import CorruptArtifact, PipelineError
from components.shared.contracts.stage import ArtifactKind
from components.shared.storage.artifacts import seal, verify, whole


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    with whole(tmp_path / "a") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "x.txt").write_text("x")
        (folder / "y.txt").write_text("y")
        seal(folder, ArtifactKind.REPORT, {"n": 1})
    return tmp_path / "a"


def test_a_sealed_artifact_verifies_and_its_identity_ignores_where_it_lies(artifact: Path, tmp_path: Path):
    digest = verify(artifact, ArtifactKind.REPORT).digest
    moved = artifact.rename(tmp_path / "elsewhere")
    assert verify(moved).digest == digest


def test_what_only_its_owner_could_read_is_readable_by_another_user_once_sealed(tmp_path: Path):
    """safetensors writes files of mode 600, and the next stage may be a container with a user of its own."""
    folder = tmp_path / "policy"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "model.safetensors").touch(mode=0o600)
    seal(folder, ArtifactKind.POLICY)
    assert [path.stat().st_mode & 0o444 for path in folder.rglob("*") if path.is_file()] == [0o444, 0o444]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda a: (a / "y.txt").write_text("z"), "does not match"),
        (lambda a: (a / "y.txt").unlink(), "is missing"),
        (lambda a: (a / "new.txt").write_text("n"), "not covered"),
        (lambda a: (a / "manifest.json").unlink(), "no manifest"),
        (lambda a: (a / "manifest.json").write_text('{"kind": "repo'), "malformed"),
    ],
)
def test_every_kind_of_damage_is_named(artifact: Path, damage, said: str):
    damage(artifact)
    with pytest.raises(CorruptArtifact, match=said):
        verify(artifact)


def test_another_kind_is_refused(artifact: Path):
    with pytest.raises(CorruptArtifact, match="holds a report, not a policy"):
        verify(artifact, ArtifactKind.POLICY)


def test_no_artifact_at_all_is_said(tmp_path: Path):
    with pytest.raises(PipelineError, match="no artifact at"):
        verify(tmp_path / "none")


def test_a_failing_block_leaves_what_was_there(artifact: Path):
    with pytest.raises(RuntimeError), whole(artifact) as folder:
        (folder / "half.txt").write_text("half")
        raise RuntimeError
    assert verify(artifact)
    assert [p.name for p in artifact.parent.iterdir()] == ["a"]


def test_a_killed_writer_leaves_no_artifact(tmp_path: Path):
    """kill -9 in the middle of writing: nothing stands under the artifact's name."""
    code = (
        "import sys, pathlib\n"
        "from components.shared.storage.artifacts import whole\n"
        f"with whole(pathlib.Path({str(tmp_path / 'a')!r})) as f:\n"
        "    (f / 'x').write_text('x'); print('ready', flush=True); sys.stdin.read()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdin.close()
    child.stdout.close()
    assert not (tmp_path / "a").exists()
