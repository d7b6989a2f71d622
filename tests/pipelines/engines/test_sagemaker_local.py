"""The emitted definition, executed: the SDK's own local executor, real stages as subprocesses, S3 by moto.

Needs an interpreter that has the SDK (`make sagemaker`).
"""

import contextlib
from pathlib import Path

import pytest
from toy_stage import spec_of
from toys import define, toy_engine, toy_folder

from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.contracts.records import Outcome, Tier
from components.shared.storage.artifacts import verify
from pipelines import launch
from pipelines.compilers.kubeflow import compile_definition
from pipelines.configuration import Environment, Settings, parse_assignments
from pipelines.definitions.composer import Composer
from pipelines.engines.engine import EngineName
from pipelines.engines.sagemaker_jobs import LocalJobs
from pipelines.engines.sagemaker_local import SageMakerLocalEngine, sdk_interpreter, with_account


@pytest.fixture(scope="module")
def sdk():
    try:
        return sdk_interpreter()
    except UsageError as error:
        pytest.skip(str(error))


def compiled(assignments=()):
    environment = Environment(image_registry="toys", image_tag="1")
    layers = (environment, parse_assignments(assignments))
    settings = Settings(name="toys", tier=Tier.GOLD, environment=environment, layers=layers)
    composer = Composer(with_account(settings), spec_of, ("python", "-m", "toy_stage"))
    return compile_definition("toys", define, composer)


def run(runs, run_id, assignments=(), seed=0, reported=None):
    folder = toy_folder(runs, run_id)
    engine = SageMakerLocalEngine(
        environment={"TOY_REGISTRY": str(runs / "registry.txt")},
        on_report=lambda task, report, seconds: reported.append(task) if reported is not None else None,
    )
    engine.run(compiled(assignments), {"seed": seed}, folder)
    return folder


def statuses(folder):
    return [str(task.status) for task in folder.state.tasks.values()]


def digests(folder):
    return {
        f"{name}.{output}": verify(folder.runs / path).digest
        for name, task in folder.state.tasks.items()
        for output, path in task.outputs.items()
    }


@pytest.mark.slow
def test_an_open_gate_registers_and_the_artifacts_are_the_local_engines(sdk, tmp_path):
    """A parameter is overridden on the way: the seed is not the one that was compiled."""
    reported = []
    folder = run(tmp_path, "one", seed=7, reported=reported)
    assert (folder.state.outcome, statuses(folder)) == (Outcome.REGISTERED, ["done"] * 3)
    assert reported == ["grow", "judge", "enroll_toy"]
    assert len((tmp_path / "registry.txt").read_text().splitlines()) == 1
    local = toy_folder(tmp_path / "local", "one")
    (tmp_path / "local").mkdir(exist_ok=True)
    toy_engine(tmp_path / "local").run(compiled(), {"seed": 7}, local)
    assert digests(folder) == digests(local)
    assert digests(folder) != {}


@pytest.mark.slow
def test_a_shut_gate_is_a_success_that_registers_nothing(sdk, tmp_path):
    folder = run(tmp_path, "one", ["judge.bar=9"])
    assert (folder.state.outcome, statuses(folder)) == (Outcome.REFUSED, ["done", "done", "skipped"])
    assert not (tmp_path / "registry.txt").exists()


@pytest.mark.slow
def test_a_failed_stage_says_why_and_a_retry_goes_on_from_there(sdk, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_TROUBLE", "judge:once")
    monkeypatch.setenv("TOY_MARK", str(tmp_path / "mark"))
    folder = run(tmp_path, "one")
    assert (folder.state.outcome, statuses(folder)) == (Outcome.FAILED, ["done", "failed", "pending"])
    assert folder.state.tasks["judge"].error == "judge met trouble: try again"
    again = run(tmp_path, "one")
    assert (again.state.outcome, statuses(again)) == (Outcome.REGISTERED, ["cached", "done", "done"])


def test_without_the_sdk_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.engines.sagemaker_local.PROJECT", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delenv("SRL_RLVR_SAGEMAKER_PYTHON", raising=False)
    with pytest.raises(UsageError, match="make sagemaker"):
        sdk_interpreter()


def test_an_sdk_that_breaks_down_is_one_line(tmp_path, monkeypatch):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho not json\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("SRL_RLVR_SAGEMAKER_PYTHON", str(broken))
    with pytest.raises(PipelineError, match="local executor ended with 3: see "):
        run(tmp_path, "one")


class Objects(dict):
    """S3's list by prefix and download, over a mapping of keys."""

    def get_paginator(self, _):
        return self

    def paginate(self, Bucket, Prefix):
        return [{"Contents": [{"Key": key} for key in self if key.startswith(Prefix)]}]

    def download_file(self, bucket, key, path):
        Path(path).write_text(self[key])


def test_a_prefix_without_a_slash_takes_its_neighbours_too(tmp_path):
    """As SageMaker does: that is why the engine ends every URI that it passes in a slash."""
    jobs = LocalJobs(
        s3=Objects({"p/v1/a": "1", "p/v10/a": "2"}),
        folder=tmp_path,
        python="python",
        environment={},
        cached=frozenset(),
        log=tmp_path.joinpath,
        progress=tmp_path.joinpath,
        on_event=lambda **_: None,
    )
    jobs._download("s3://bucket/p/v1", tmp_path / "bare")
    jobs._download("s3://bucket/p/v1/", tmp_path / "slash")
    assert {path.name for path in (tmp_path / "bare").iterdir()} == {"0", "a"}
    assert {path.name for path in (tmp_path / "slash").iterdir()} == {"a"}


@pytest.mark.slow
@pytest.mark.whole
def test_the_real_stages_give_the_same_artifacts_under_both_engines(sdk, tmp_path):
    """post_training, whole, registration on MLflow included; reports may hold how fast a stage was."""
    found = {}
    for engine in (EngineName.LOCAL, EngineName.SAGEMAKER_LOCAL):
        finished = launch.start(
            "post_training",
            environment="test",
            tier=Tier.GOLD,
            assignments=[],
            run_id="one",
            runs=tmp_path / engine,
            display=lambda folder: contextlib.nullcontext(),
            engine=engine,
        )
        assert finished.outcome in (Outcome.REGISTERED, Outcome.REFUSED)
        found[engine] = {k: v for k, v in digests(finished.folder).items() if not k.endswith(".report")}
    assert found[EngineName.LOCAL] == found[EngineName.SAGEMAKER_LOCAL]
    assert "evaluation.accepted_policy" in found[EngineName.LOCAL]
