"""What tiers ask of the machines, and what environments say of accounts and clusters."""

import pytest
import yaml

from components.catalogue import STAGES, spec_of
from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Tier
from components.shared.contracts.stage import Job
from pipelines.compilers.kubeflow import compile_dag, to_yaml
from pipelines.configuration import load_settings, load_tier
from pipelines.job_settings import JobSettings, TierJobs, checked, instance_of, instances

BASE = {
    "processing": {"instance_type": "ml.m5.xlarge"},
    "training": {"instance_type": "ml.g6.12xlarge", "checkpoint_interval_s": 900},
}


@pytest.mark.parametrize("tier", Tier)
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_of_every_tier_has_a_machine_for_its_kind_of_job(tier, stage):
    job = load_tier(tier).jobs.of(spec_of(stage))
    assert job.job in instance_of(job, stage, "us-east-1").jobs
    if job.job == Job.TRAINING:
        assert job.checkpoint_interval_s
        assert job.isolated


def test_a_stages_own_word_beats_its_kinds():
    jobs = TierJobs.model_validate({**BASE, "stages": {"srl": {"instance_count": 2}}})
    assert jobs.of(spec_of("srl")).instance_count == 2
    assert jobs.of(spec_of("srl")).instance_type == "ml.g6.12xlarge"
    assert jobs.of(spec_of("rlvr")).instance_count == 1


def test_a_tier_may_change_the_kind_of_job():
    jobs = TierJobs.model_validate({**BASE, "stages": {"evaluation": {"job": "training"}}})
    assert jobs.of(spec_of("evaluation")).job == Job.TRAINING
    assert jobs.of(spec_of("evaluation")).instance_type == "ml.g6.12xlarge"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"spot_wait_s": 7200}, "without checkpoint_interval_s"),
        ({"spot_wait_s": 3600, "checkpoint_interval_s": 900}, "is not above max_runtime_s = 3600"),
        ({"job": "processing", "checkpoint_interval_s": 900}, "a processing job has none"),
    ],
)
def test_settings_that_do_not_go_together(settings, said):
    job = JobSettings.model_validate({"instance_type": "x", "max_runtime_s": 3600, "job": "training", **settings})
    with pytest.raises(UsageError, match=said):
        checked(job, "srl")


def test_a_machine_that_is_not_there():
    job = JobSettings(instance_type="ml.p5.48xlarg", job=Job.TRAINING)
    with pytest.raises(UsageError, match=r"did you mean 'ml\.p5\.48xlarge'"):
        instance_of(job, "srl")


def test_machines_with_accelerators_say_what_they_hold():
    for name, instance in instances().items():
        assert (instance.gpus > 0) == (instance.gpu is not None) == (instance.gpu_memory_gib > 0), name


def documents(environment, tier=Tier.SILVER):
    dag = compile_dag("post_training", load_settings(environment, tier))
    ir, *platform = yaml.safe_load_all(to_yaml(dag))
    executors = ir["deploymentSpec"]["executors"]
    return executors, platform[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"] if platform else {}


def test_kubeflow_gets_gpus_nodes_tolerations_and_secrets():
    executors, platform = documents("prod")
    srl = executors["exec-srl"]["container"]["resources"]
    assert (srl["accelerator"]["resourceType"], srl["accelerator"]["resourceCount"]) == ("nvidia.com/gpu", "8")
    assert "accelerator" not in executors["exec-verification"]["container"]["resources"]
    assert platform["exec-srl"]["nodeSelector"]["labels"] == {"node.kubernetes.io/instance-group": "gpu"}
    assert platform["exec-srl"]["tolerations"][0]["key"] == "nvidia.com/gpu"
    (secret,) = platform["exec-trajectory-generation"]["secretAsEnv"]
    assert secret["keyToEnv"] == [{"secretKey": "api-key", "envVar": "OPENROUTER_API_KEY"}]
    assert "exec-verification" not in platform
    _, bronze = documents("prod", Tier.BRONZE)
    assert bronze["exec-srl"]["podMetadata"]["annotations"] == {"srl-rlvr/nodes": "4"}


def test_one_machine_asks_for_nothing():
    executors, platform = documents("local")
    assert platform == {}
    assert "resources" not in executors["exec-srl"]["container"]
    assert "env" not in executors["exec-srl"]["container"]


def test_kubeflow_takes_what_is_compiled(tmp_path):
    from kfp import components

    path = tmp_path / "dag.yaml"
    path.write_text(to_yaml(compile_dag("post_training", load_settings("prod", Tier.GOLD))))
    loaded = components.load_component_from_file(str(path))
    assert loaded.name == "post-training"
    assert loaded.platform_spec.platforms
