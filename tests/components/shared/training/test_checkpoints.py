import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import call
from kill_driver import campaign

from components.shared.contracts.environment import CHECKPOINT_INTERVAL, CHECKPOINT_STEPS, CHECKPOINTS, ECHO_METRICS
from components.shared.contracts.errors import PipelineError
from components.shared.contracts.stage import ArtifactKind
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.storage.artifacts import seal, verify
from components.shared.training import checkpoints as module
from components.shared.training import termination
from components.shared.training.checkpoints import Checkpoints
from components.shared.training.distributed.world import World
from components.shared.training.state_tree import read_whole
from components.shared.training.termination import Terminated
from components.srl.spec import SPEC, SRLConfig


def saved_steps(folder, *steps, **options):
    checkpoints = Checkpoints(folder=folder, **options)
    for step in steps:
        checkpoints.save(step, lambda: {"weights": torch.full((4,), float(step))})  # noqa: B023
    checkpoints.finish()
    return checkpoints


def found(folder):
    saved = Checkpoints(folder=folder).newest()
    return None if saved is None else (saved.step, saved.common["weights"].whole().tolist())


def tensors_of(folder, step):
    return folder / f"step-{step:08d}" / "rank-00000" / "tensors.safetensors"


def test_the_newest_of_the_kept_is_found_and_no_file_needs_unpickling(tmp_path):
    saved_steps(tmp_path, 1, 2, 3, 4, 5)
    assert found(tmp_path) == (5, [5.0] * 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000004", "step-00000005"]
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} == {".json", ".safetensors"}
    verify(tmp_path / "step-00000005" / "rank-00000", ArtifactKind.CHECKPOINT)


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def forge_another_world(path):
    seal_again = path.parent
    (seal_again / "manifest.json").unlink()
    seal(seal_again, ArtifactKind.CHECKPOINT, {"step": 5, "world": 2})


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        Path.unlink,
        lambda path: path.write_bytes(path.read_bytes()[:10]),
        lambda path: (path.parent / "manifest.json").unlink(),
        lambda path: (path.parent / "manifest.json").write_text("{"),
        lambda path: (path.parent / "state.json").write_text("{}"),
        lambda path: shutil.rmtree(path.parent),
        forge_another_world,
    ],
)
def test_the_two_newest_may_be_damaged_in_any_way(tmp_path, capsys, damage):
    saved_steps(tmp_path, 3, 4, 5)
    for step in (4, 5):
        damage(tensors_of(tmp_path, step))
    assert found(tmp_path) == (3, [3.0] * 4)
    assert "checkpoint of update 5 is skipped" in capsys.readouterr().err
    assert not tensors_of(tmp_path, 5).parent.parent.exists(), "parts of a broken attempt would mix with the next"


def test_nothing_whole_means_a_fresh_start(tmp_path):
    assert found(tmp_path / "never written") is None
    saved_steps(tmp_path, 1)
    flip_a_byte(tensors_of(tmp_path, 1))
    assert found(tmp_path) is None
    assert Checkpoints(folder=None).newest() is None


def test_what_is_written_is_the_moment_of_the_save(tmp_path):
    weights = torch.zeros(1000)
    checkpoints = Checkpoints(folder=tmp_path)
    checkpoints.save(1, lambda: {"weights": weights})
    weights += 1
    checkpoints.finish()
    assert found(tmp_path) == (1, [0.0] * 1000)


def test_training_goes_on_while_the_disk_is_slow(tmp_path, monkeypatch):
    gate, began = threading.Event(), threading.Event()

    def slow(*args):
        began.set()
        gate.wait()
        return seal(*args)

    monkeypatch.setattr(module, "seal", slow)
    checkpoints = Checkpoints(folder=tmp_path)
    checkpoints.save(1, lambda: {"weights": torch.ones(1)})
    assert began.wait(10) and not list(tmp_path.rglob("manifest.json")), "save has returned, the thread is at work"
    gate.set()
    checkpoints.finish()
    assert found(tmp_path) == (1, [1.0])


def test_a_save_that_fails_is_not_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "seal", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    checkpoints = Checkpoints(folder=tmp_path)
    checkpoints.save(1, dict)
    with pytest.raises(PipelineError, match="No space left"):
        checkpoints.save(2, dict)


def test_every_generator_goes_on_where_it_was(tmp_path):
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    random.gauss(0, 1), np.random.standard_normal()
    saved_steps(tmp_path, 1)
    drawn = torch.rand(3).tolist(), random.gauss(0, 1), np.random.standard_normal(3).tolist()
    assert Checkpoints(folder=tmp_path).resume() is not None
    assert (torch.rand(3).tolist(), random.gauss(0, 1), np.random.standard_normal(3).tolist()) == drawn


def test_saves_come_by_time_and_by_steps(tmp_path):
    by_steps = Checkpoints(folder=tmp_path / "steps", every_steps=3)
    by_time = Checkpoints(folder=tmp_path / "time", every_seconds=0)
    rarely = Checkpoints(folder=tmp_path / "rarely")
    for checkpoints in (by_steps, by_time, rarely):
        with checkpoints:
            for step in range(1, 5):
                checkpoints.after_step(step, dict)
    assert [sorted(c._steps()) for c in (by_steps, by_time, rarely)] == [[3], [2, 3, 4], []]


def test_another_configuration_or_input_finds_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(CHECKPOINTS, str(tmp_path / "c"))
    monkeypatch.setenv(CHECKPOINT_INTERVAL, "60")
    monkeypatch.setenv(CHECKPOINT_STEPS, "7")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        seal(tmp_path / name, ArtifactKind.POLICY)

    def of(config, policy):
        return Checkpoints.of_stage(SPEC, config, {"policy": tmp_path / policy}, World())

    first = of(SRLConfig(), "one")
    folders = {first.folder, of(SRLConfig(seed=1), "one").folder, of(SRLConfig(), "two").folder}
    assert len(folders) == 3 and of(SRLConfig(), "one").folder == first.folder
    assert (first.every_seconds, first.every_steps) == (60.0, 7)
    monkeypatch.delenv(CHECKPOINTS)
    assert of(SRLConfig(), "one").folder is None


def test_what_was_recorded_after_the_checkpoint_is_forgotten(tmp_path):
    tracker = PerformanceTracker(tmp_path / "a")
    tracker.log(0, loss=0.1)
    tracker.sample(0, text="é")
    with Checkpoints(folder=tmp_path / "c") as checkpoints:
        checkpoints.save(1, lambda: {"tracker": tracker.state()})
    tracker.log(1, loss=0.2)
    saved = Checkpoints(folder=tmp_path / "c").newest()
    for folder in ("a", "b"):
        again = PerformanceTracker(tmp_path / folder)
        again.restore(read_whole(saved.common["tracker"]))
        again.log(1, loss=0.3)
        lines = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["loss"] for line in lines] == [0.1, 0.3]
        assert json.loads((tmp_path / folder / "samples.jsonl").read_text()) == {"step": 0, "text": "é"}


def test_sigterm_in_an_update_waits_for_its_end_and_later_for_nothing(tmp_path):
    for steps, said in ((3, "after update 2"), (2, "after the last update")):
        with pytest.raises(Terminated, match=said) as stopped, Checkpoints(folder=tmp_path / str(steps)) as checkpoints:
            for step in range(1, steps + 1):
                if step == 2 and steps == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                checkpoints.after_step(step, dict)
            checkpoints.save(steps, dict)
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.value.exit_code == 143
        assert Checkpoints(folder=tmp_path / str(steps)).newest().step == 2
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_update_that_does_not_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(termination, "GRACE_SECONDS", 1)
    with (
        pytest.raises(Terminated, match=r"no update ended within 1 s: the newest checkpoint stands"),
        Checkpoints(folder=tmp_path) as checkpoints,
    ):
        checkpoints.save(1, dict)
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(30)
    assert Checkpoints(folder=tmp_path).newest().step == 1


@pytest.mark.slow
def test_sigterm_saves_in_time_and_the_next_run_goes_on_from_there(tmp_path, workspace, environment):
    (tmp_path / "srl.yaml").write_text("{steps: 5000, batch_size: 8}")
    artifacts = [f"--input={n}={workspace / f}" for n, f in (("dataset", "dataset"), ("policy", "teacher"))]
    outputs = [f"--output={n}={tmp_path / n}" for n in ("policy", "report")]
    command = [sys.executable, "-m", "components", "srl", "--config", str(tmp_path / "srl.yaml"), *artifacts, *outputs]
    variables = {**environment, CHECKPOINTS: str(tmp_path / "c"), ECHO_METRICS: "1"}
    first_steps = []
    for _ in range(2):
        process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - began < 25
        assert process.returncode == 143
        said = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert len(said) == 1 and "stopped by SIGTERM after update" in said[0], errors
        newest = Checkpoints(folder=next((tmp_path / "c").iterdir()) / "training").newest()
        assert f"update {newest.step}," in said[0]
        first_steps.append((lines[0]["step"], newest.step))
    assert first_steps[0][0] == 0 and first_steps[1][0] == first_steps[0][1] > 0
    assert not (tmp_path / "policy").exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stage", ["srl", "rlvr", "distillation"])
def test_killed_at_random_moments_a_run_ends_with_the_very_same_bytes(stage, workspace, tmp_path):
    kills = 50 if os.environ.get("SRL_RLVR_CAMPAIGNS") == "whole" else 1
    call(campaign, workspace, stage, kills, "7", tmp_path / "counts.json", log=tmp_path / "log")
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert counts["equal"] == counts["runs"] and counts["kills"] >= kills, counts
    if kills == 50:
        assert counts["saving"] > 0 and counts["resumes"] > 10, counts
