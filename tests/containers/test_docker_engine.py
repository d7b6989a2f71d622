"""Stages in real containers: the same bytes as in subprocesses, and nothing that a container should not have."""

import dataclasses
import os
from pathlib import Path

import pytest
from data_dag import SMALL, compiled, run_data
from kfp import local
from kfp.local import pipeline_orchestrator
from kfp.pipeline_spec import pipeline_spec_pb2

from components.shared.contracts.environment import REQUEST_CACHE
from components.shared.contracts.errors import UsageError
from components.shared.contracts.stage import Job, Report
from components.shared.storage.artifacts import verify
from components.verification.spec import SPEC
from pipelines.cli import cli, guarded
from pipelines.engines.docker import Containers
from pipelines.engines.process import StageJob, Subprocesses, cause
from pipelines.engines.run_folder import all_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
"""The first test waits for the image that all share."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def containers(data_image, runs) -> Containers:
    return Containers(cache=runs / "cache")


@pytest.fixture(scope="module")
def subprocess_run(runs):
    return run_data(runs, "subprocesses", Subprocesses())


@pytest.fixture(scope="module")
def container_run(containers, runs):
    return run_data(runs, "containers", containers)


def artifacts(folder) -> dict[str, bytes]:
    """Every file of a run by task, output and path."""
    return {
        f"{name}/{path.relative_to(folder.artifact(name, '').parent / name)}": path.read_bytes()
        for name, task in folder.state.tasks.items()
        for output in task.outputs
        for path in sorted(folder.artifact(name, output).rglob("*"))
        if path.is_file()
    }


def test_a_dag_gives_the_same_bytes_in_containers_as_in_subprocesses(subprocess_run, container_run):
    assert [str(task.status) for task in container_run.state.tasks.values()] == ["done"] * 3, container_run.state
    wanted, found = artifacts(subprocess_run), artifacts(container_run)
    assert len(wanted) > 10
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []


def test_the_store_tells_what_containers_made_from_what_subprocesses_made(
    containers, subprocess_run, container_run, runs
):
    again = run_data(runs, "again", containers)
    assert [str(task.status) for task in again.state.tasks.values()] == ["cached"] * 3
    for name, task in container_run.state.tasks.items():
        assert task.key == again.state.tasks[name].key != subprocess_run.state.tasks[name].key


def test_a_failed_stage_says_why_and_leaves_no_container(containers, runs, docker_client):
    folder = run_data(runs, "failing", containers, [*SMALL, "data_validation.min_train=100000"])
    task = folder.state.tasks["data_validation"]
    assert (str(folder.state.outcome), str(task.status)) == ("failed", "failed")
    assert "100000" in task.error and "\n" not in task.error
    assert docker_client.containers.list(all=True, filters={"name": "srl-rlvr-"}) == []


def test_kfps_own_docker_runner_runs_the_image(data_image, tmp_path):
    """What a Kubeflow cluster does with the image, on this machine: KFP's orchestrator, its DockerRunner, its mounts."""
    from google.protobuf import json_format

    owner = f"{os.getuid()}:{os.getgid()}"
    local.init(
        runner=local.DockerRunner(entrypoint=[], user=owner, network_mode="none"),
        pipeline_root=str(tmp_path / "root"),
        workspace_root=str(tmp_path / "workspace"),
    )
    spec = json_format.ParseDict(compiled().ir, pipeline_spec_pb2.PipelineSpec())
    pipeline_orchestrator.run_local_pipeline(spec, {})
    (dataset,) = (tmp_path / "root").rglob("data-validation/dataset")
    assert verify(dataset).metadata["stage"] == "data_validation"


@pytest.fixture
def job(data_image, tmp_path):
    """A command in the data image, as a stage's; it may write into one folder and read another."""
    reads, writes = tmp_path / "reads", tmp_path / "writes"
    for folder in (reads, writes):
        folder.mkdir()
    whole = StageJob(
        spec=SPEC,
        config=SPEC.config(),
        key=tmp_path.name,
        image=data_image,
        command=(),
        environment={"TOLD": "yes"},
        log=tmp_path / "log",
        reads=(reads,),
        writes=(writes,),
        lock=-1,
    )
    return lambda code, **fields: dataclasses.replace(whole, command=("python", "-c", code), **fields)


def test_exit_codes_and_signals_come_through(containers, job):
    assert containers.run(job("raise SystemExit(7)"))[0] == 7
    # The kernel shields a container's first process from its own SIGKILL: its child is killed, and the shell says so.
    kill = "import os; os.kill(os.getpid(), 9)"
    killed = dataclasses.replace(job(""), command=("sh", "-c", f"python -c '{kill}'; exit $?"))
    returncode, measured = containers.run(killed)
    assert (returncode, cause(returncode, killed.log)) == (-9, "ended by SIGKILL: probably out of memory")
    assert measured["seconds"] > 0


def test_a_container_sees_its_own_folders_and_no_more(containers, job, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never")
    probe = f"""
import os, pathlib
assert os.environ["TOLD"] == "yes" and "AWS_SECRET_ACCESS_KEY" not in os.environ
assert os.environ["{REQUEST_CACHE}"]
assert os.getuid() == {os.getuid()}
pathlib.Path("{tmp_path}/writes/made").write_text("x")
assert not os.path.exists("{Path(__file__)}")
try:
    pathlib.Path("{tmp_path}/reads/made").write_text("x")
except OSError as error:
    raise SystemExit(42)
"""
    assert containers.run(job(probe))[0] == 42, (tmp_path / "log").read_text()
    assert (tmp_path / "writes" / "made").read_text() == "x"


def test_a_training_stage_has_no_network_and_no_cache(containers, job):
    probe = f"""
import os, socket
assert "{REQUEST_CACHE}" not in os.environ
assert [name for _, name in socket.if_nameindex()] == ["lo"]
"""
    code, _ = containers.run(job(probe, spec=dataclasses.replace(SPEC, job=Job.TRAINING)))
    assert code == 0


def test_a_container_that_a_killed_run_left_is_ended_first(containers, job, docker_client, data_image):
    asked = job("print('mine')")
    name = f"srl-rlvr-{asked.spec.name}-{asked.key}"
    left = docker_client.containers.run(
        data_image, ["600"], entrypoint=["sleep"], name=name, detach=True, network="none", stop_signal="SIGKILL"
    )
    code, _ = containers.run(asked)
    assert (code, asked.log.read_text()) == (0, "mine\n")
    assert left.id not in [container.id for container in docker_client.containers.list(all=True)]


def test_an_image_of_other_source_or_none_is_refused(containers, data_image, docker_client):
    containers.check([data_image])
    with pytest.raises(UsageError, match="no image srl-rlvr/none:1: run `make images`"):
        containers.check(["srl-rlvr/none:1"])
    made = docker_client.containers.create(data_image)
    made.commit("srl-rlvr/other", "1", changes="LABEL srl-rlvr.source=0123456789abcdef")
    made.remove()
    with pytest.raises(UsageError, match="built from other source"):
        containers.check(["srl-rlvr/other:1"])


def test_run_says_in_one_line_what_is_missing_before_anything_is_written(docker_daemon, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SRL_RLVR_RUNS", str(tmp_path / "runs"))
    arguments = ["run", "post_training", "--env", "dev", "--engine", "docker"]
    assert guarded(lambda: cli.main(arguments, standalone_mode=False)) == 2
    missing = "111122223333.dkr.ecr.us-east-1.amazonaws.com/srl-rlvr/data:0.1.0"
    assert capsys.readouterr().err == f"error: no image {missing}: run `make images`, or docker pull it\n"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    assert guarded(lambda: cli.main(arguments, standalone_mode=False)) == 2
    assert capsys.readouterr().err.startswith("error: no Docker answers")
    assert all_runs(tmp_path / "runs") == []


def test_a_champion_is_trained_and_registered_in_the_images(post_training_run):
    """The whole of post_training, by the command, with the gate open."""
    statuses = {name: str(task.status) for name, task in post_training_run.state.tasks.items()}
    assert set(statuses.values()) == {"done"}, statuses
    assert str(post_training_run.state.outcome) == "registered"
    report = post_training_run.artifact("evaluation", "report") / "report.json"
    assert Report.model_validate_json(report.read_bytes()).scalars["gate_margin"] >= 0
