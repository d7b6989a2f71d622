"""The whole nightly DAG on this machine, as small as it goes: run, killed, resumed, run again, stopped by ctrl-C."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from components.shared.contracts.environment import CHECKPOINT_STEPS
from components.shared.contracts.records import Tier
from components.shared.performance.model_registry import ModelRegistry
from components.shared.storage.artifacts import verify
from pipelines.engines.run_folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
# What so small a run learns is no gain: the gates are opened, so that all of the DAG runs.
RUN = ["run", "nightly", "--env", "test", "--set", "min_gain=-1", "--set", "distillation.min_retention=0.01"]
RUN += ["--set", "distillation.min_diversity=0"]
RLVR = r"/rlvr/\w+/checkpoints/.*/step-00000002/rank-00000$"
MOMENTS = {
    "generation, before its outputs": r"/trajectory_generation/\w+/trajectories$",
    "verification, between its outputs": r"/verification/\w+/report$",
    "validation, between its outputs": r"/data_validation/\w+/report$",
    "the engine, about to say that validation is done": r"/artifacts/data_validation/dataset$",
    "srl, between two checkpoints": r"/srl/\w+/checkpoints/.*/step-00000004/rank-00000$",
    "srl, trained and not saved": r"/srl/\w+/policy$",
    "rlvr, between two checkpoints": RLVR,
    "evaluation, between its outputs": r"/evaluation/\w+/report$",
    "registration, when the version is there": r"/registration/\w+/report$",
    "distillation, between two checkpoints": r"/distillation/\w+/checkpoints/.*/step-00000002/rank-00000$",
}


def command(runs: Path, *arguments: str, **variables: str) -> subprocess.Popen:
    program = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "from pipelines.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "SRL_RLVR_RUNS": str(runs), CHECKPOINT_STEPS: "2", "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen, code: int) -> str:
    out, errors = process.communicate()
    assert process.returncode == code, out + errors
    return errors


def digests(runs: Path, run_id: str) -> dict[str, str]:
    """Of every artifact but the reports, which tell of times."""
    tasks = RunFolder.open(runs, run_id).state.tasks
    return {
        f"{name}.{output}": verify(runs / path).digest
        for name, task in tasks.items()
        for output, path in task.outputs.items()
        if output != "report"
    }


def registered(runs: Path) -> dict[Tier, int]:
    registry = ModelRegistry(RunFolder.open(runs, "one").state.tracking_uri)
    return {tier: len(registry.versions("npc_dialogue", tier)) for tier in Tier}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    runs = tmp_path_factory.mktemp("undisturbed")
    finished(command(runs, *RUN, "--run-id", "one"), 0)
    assert registered(runs) == dict.fromkeys(Tier, 1)
    return runs


def kill(moment: str) -> dict[str, str]:
    return {"PYTHONPATH": str(Path(__file__).with_name("kill_at")), "KILL_AT": moment}


@pytest.mark.whole
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_with_9_is_resumed_to_the_same_bytes(undisturbed, tmp_path, moment):
    finished(command(tmp_path, *RUN, "--run-id", "one", **kill(MOMENTS[moment])), -signal.SIGKILL)
    assert RunFolder.open(tmp_path, "one").status == "interrupted"
    found = list(tmp_path.glob("store/*/*/checkpoints/*/training/step-*"))
    assert bool(found) == ("checkpoints" in moment)
    finished(command(tmp_path, "run", "--resume", "one"), 0)
    assert_the_same(tmp_path, undisturbed)


def assert_the_same(runs: Path, undisturbed: Path) -> None:
    assert digests(runs, "one") == digests(undisturbed, "one")
    assert registered(runs) == dict.fromkeys(Tier, 1)
    assert not list(runs.glob("store/*/*/checkpoints"))


def test_the_same_night_again_is_all_cached_and_registers_nothing(undisturbed):
    finished(command(undisturbed, *RUN, "--run-id", "two"), 0)
    states = {name: str(task.status) for name, task in RunFolder.open(undisturbed, "two").state.tasks.items()}
    assert set(states.values()) == {"cached"}, states
    assert registered(undisturbed) == dict.fromkeys(Tier, 1)


def test_a_run_stopped_by_ctrl_c_and_then_killed_is_resumed_to_the_same_bytes(undisturbed, tmp_path):
    """What is not stopped is in the store; what follows from the trained policy is found there if its bytes are the same."""
    for stage in (undisturbed / "store").iterdir():
        if stage.name not in ("srl", "rlvr"):
            shutil.copytree(stage, tmp_path / "store" / stage.name)
    process = command(tmp_path, *RUN, "--run-id", "one", CHECKPOINT_STEPS="")
    trained = threading.Event()
    while not trained.wait(0.05):
        assert process.poll() is None
        if any(path.stat().st_size for path in tmp_path.glob("one/progress/srl*")):
            trained.set()
    process.send_signal(signal.SIGINT)
    assert finished(process, 130).splitlines()[-1] == "error: interrupted: what was finished is kept"
    finished(command(tmp_path, "run", "--resume", "one", **kill(RLVR)), -signal.SIGKILL)
    assert RunFolder.open(tmp_path, "one").status == "interrupted"
    finished(command(tmp_path, "run", "--resume", "one"), 0)
    assert_the_same(tmp_path, undisturbed)
