"""What SageMaker has not, or would not take, is refused in one line that says where and what to do; nothing is written."""

import shutil

import pytest
import yaml
from click.testing import CliRunner
from kfp import dsl
from toy_stage import spec_of

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Tier
from components.shared.storage.paths import PROJECT
from pipelines.cli import cli
from pipelines.compilers.kubeflow import compile_dag, compile_definition
from pipelines.compilers.sagemaker import compile_sagemaker
from pipelines.configuration import load_settings
from pipelines.definitions.composer import Composer, pipeline


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """A copy of configs/ to spoil; call it with a file and what to change there."""
    shutil.copytree(PROJECT / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("worlds"))
    monkeypatch.setenv("SRL_RLVR_CONFIGS", str(tmp_path / "configs"))

    def change(name, **changes):
        path = tmp_path / "configs" / name
        values = yaml.safe_load(path.read_text())
        for keys, value in changes.items():
            *parents, last = keys.split("__")
            into = values
            for key in parents:
                into = into.setdefault(key, {})
            if value is None:
                into.pop(last, None)
            else:
                into[last] = value
        path.write_text(yaml.safe_dump(values))

    return change


def refused(dag="post_training", tier=Tier.GOLD, environment="prod"):
    with pytest.raises(UsageError) as caught:
        compile_sagemaker(compile_dag(dag, load_settings(environment, tier)))
    message = str(caught.value)
    assert "\n" not in message
    return message


ACCOUNT_FAULTS = [
    ({"image_registry": "srl-rlvr"}, "image 'srl-rlvr/data:0.1.0' is not one of Amazon ECR"),
    ({"image_registry": "999900001111.dkr.ecr.us-east-1.amazonaws.com/x"}, "is of another account than role"),
    ({"sagemaker__account_id": "12"}, "account_id = '12'"),
    ({"sagemaker__account_id": "999900001111"}, "is of another account than 999900001111"),
    ({"sagemaker__role_arn": "pipeline-role"}, "role_arn = 'pipeline-role'"),
    ({"sagemaker__role_arn": None}, "sagemaker.role_arn"),
    ({"sagemaker__bucket": "No_Bucket"}, "bucket = 'No_Bucket'"),
    ({"sagemaker__region": "eu-west-1"}, "ml.g6.12xlarge is not offered in eu-west-1"),
    ({"sagemaker__rgion": "eu-west-1"}, "did you mean 'region'?"),
    ({"sagemaker__subnets": None}, "subnets and security_groups go together"),
    ({"sagemaker__pipeline_prefix": "a" * 256}, "at most 256"),
    ({"stages__trajectory_generation__teacher__model": "m" * 300}, "SageMaker takes 256"),
    ({"sagemaker": None}, "environment 'prod' names no AWS account"),
]


@pytest.mark.parametrize(("changes", "said"), ACCOUNT_FAULTS, ids=lambda value: str(value)[:40])
def test_faults_of_an_environment(configs, changes, said):
    configs("environments/prod.yaml", **changes)
    assert said in refused()


TIER_FAULTS = [
    ({"jobs__training__instance_type": "ml.p5.48xlrge"}, "did you mean 'ml.p5.48xlarge'?"),
    (
        {"jobs__stages__evaluation__instance_type": "ml.p5.48xlarge"},
        "evaluation: ml.p5.48xlarge runs no processing jobs",
    ),
    ({"jobs__training__checkpoint_interval_s": None}, "Spot (spot_wait_s = 72000) without checkpoint_interval_s"),
    ({"jobs__training__spot_wait_s": 36000}, "is not above max_runtime_s = 36000"),
    ({"jobs__processing__spot_wait_s": 36000}, "a processing job has none"),
    ({"jobs__training__instance_count": 0}, "instance_count = 0"),
    ({"jobs__stages__srl__stratgy": "fsdp"}, "did you mean 'strategy'?"),
    ({"jobs__training__strategy": "horovod"}, "strategy = 'horovod'"),
    (
        {"jobs__training__strategy": "deepspeed"},
        "rlvr: jobs.strategy = deepspeed: deepspeed is for weighted SRL: train with fsdp",
    ),
    (
        {"jobs__training__strategy": "fsdp", "stages__srl__lora_rank": 64},
        "srl: jobs.strategy = fsdp: lora_rank = 64: train with ddp, or with lora_rank: null (jobs.stages.srl.strategy)",
    ),
    ({"jobs": None}, "jobs"),
]


@pytest.mark.parametrize(("changes", "said"), TIER_FAULTS, ids=lambda value: str(value)[:40])
def test_faults_of_a_tier(configs, changes, said):
    configs("tiers/gold.yaml", **changes)
    assert said in refused()


def toy(define):
    settings = load_settings("prod", Tier.GOLD)
    return compile_sagemaker(compile_definition("toys", define, Composer(settings, spec_of, ("python", "-m", "x"))))


def grow_and_judge(compose, seed, name="judge"):
    grown = compose.task("grow", "grow", seed=seed)
    return compose.task(name, "judge", seeds=grown.outputs["seeds"], seed=seed)


def looped(compose, seed):
    with dsl.ParallelFor([1, 2]):
        compose.task("grow", "grow", seed=seed)


def on_exit(compose, seed):
    last = compose.task("last", "grow", seed=seed)
    with dsl.ExitHandler(last):
        compose.task("grow", "grow", seed=seed)


def unequal(compose, seed):
    judged = grow_and_judge(compose, seed)
    with dsl.If(judged.outputs["margin"] != 0.0, name="odd"):
        compose.task("again", "grow", seed=seed)


def otherwise(compose, seed):
    judged = grow_and_judge(compose, seed)
    with dsl.If(judged.outputs["margin"] > 0.0):
        compose.task("again", "grow", seed=seed)
    with dsl.Else():
        compose.task("instead", "grow", seed=seed)


def named_at_length(compose, seed):
    grow_and_judge(compose, seed, "judge_" + "y" * 60)


def same_gates(compose, seed):
    judged = grow_and_judge(compose, seed)
    for name in ("one", "two"):
        with dsl.If(judged.outputs["margin"] > 0.0, name="accepted"):
            compose.task(name, "grow", seed=seed)


FEATURES = [
    (looped, "ParallelFor has no counterpart: write one task"),
    (on_exit, "ExitHandler"),
    (unequal, "gate-odd: != has no counterpart"),
    (otherwise, "condition-branches-1"),
    (named_at_length, "at most 64 letters"),
    (same_gates, "step name 'gate-accepted' is taken twice"),
]


@pytest.mark.parametrize(("body", "said"), FEATURES, ids=lambda value: getattr(value, "__name__", ""))
def test_what_kfp_has_and_sagemaker_has_not(body, said):
    def define(compose):
        @pipeline("toys")
        def toys(seed: int = 0):
            """Toys."""
            body(compose, seed)

        return toys

    with pytest.raises(UsageError) as caught:
        toy(define)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_than_fifty_steps(wide_dag):
    with pytest.raises(UsageError, match="60 steps, SageMaker takes 50"):
        compile_sagemaker(wide_dag(60))


def test_nothing_is_written_where_one_dag_cannot_be_compiled(configs, tmp_path):
    configs("tiers/bronze.yaml", jobs__stages__distillation={"instance_type": "ml.none"})
    out = tmp_path / "out"
    result = CliRunner().invoke(cli, ["compile", "--target", "all", "--env", "prod", "--out", str(out)])
    assert isinstance(result.exception, UsageError)
    assert not out.exists()
