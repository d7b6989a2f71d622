"""The emitted SageMaker definition, run by the SDK's local mode: the images under /opt/ml, as the service lays it out."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from docker_images import PROJECT, succeed

from components.shared.contracts.records import Tier
from components.shared.storage.artifacts import verify
from components.shared.storage.paths import configs_root
from pipelines.compilers.kubeflow import compile_dag
from pipelines.compilers.sagemaker import compile_sagemaker
from pipelines.configuration import load_settings
from pipelines.engines.sagemaker_local import ACCOUNT, with_account

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
"""The first test waits for both images."""


@pytest.fixture
def run(sdk, compose, data_image, training_image, tmp_path):
    """post_training in local mode: how its execution ended, and the folder with what lies in the bucket."""

    def run(assignments=(), **parameters):
        settings = with_account(load_settings("test", Tier.GOLD, assignments))
        for name, image in (("data", data_image), ("training", training_image)):
            succeed("docker", "tag", image, settings.environment.image(name))
        pipeline = compile_sagemaker(compile_dag("post_training", settings))
        base = f"{ACCOUNT.root}/inputs/base"
        request = {
            "name": pipeline.name,
            "definition": pipeline.definition,
            "parameters": {"accepted": "none", "champion_uri": base, "base_uri": base, **parameters},
            "bucket": ACCOUNT.bucket,
            "uploads": {base: str(configs_root() / settings.uri("base_uri", Tier.GOLD))},
            "folder": str(tmp_path),
        }
        (tmp_path / "request.json").write_text(json.dumps(request))
        command = [sdk, Path(__file__).parent / "sagemaker_local_mode.py", tmp_path / "request.json"]
        told = {**os.environ, "PATH": compose, "PYTHONPATH": str(PROJECT), "AWS_DEFAULT_REGION": ACCOUNT.region}
        done = subprocess.run(command, env=told, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return json.loads((tmp_path / "ended.json").read_text()), tmp_path / "bucket", done.stdout

    return run


def test_a_shut_gate_ends_well_and_artifacts_are_those_of_the_docker_engine(run, post_training_run):
    """A parameter is overridden on the way: no policy gains this much."""
    ended, bucket, said = run(min_gain=2.0)
    assert ended["status"] == "Succeeded", ended["reason"] + said[-3000:]
    assert {name for name, status in ended["steps"].items() if status != "Succeeded"} == {"register-gold"}
    for task, output, where in (
        ("data_validation", "dataset", "data-validation/dataset"),
        ("srl", "policy", "srl/srl/output/model/policy"),
        ("rlvr", "policy", "rlvr/rlvr/output/model/policy"),
    ):
        (found,) = bucket.rglob(where)
        assert verify(found).digest == verify(post_training_run.artifact(task, output)).digest, task


def test_a_failed_job_fails_the_execution_and_nothing_runs_after_it(run):
    ended, bucket, said = run(["data_validation.min_train=100000"])
    assert ended["status"] == "Failed"
    assert ended["steps"]["verification"] == "Succeeded" != ended["steps"]["data-validation"]
    assert "100000" in said
    assert list(bucket.rglob("srl")) == []
