"""Promote and roll back: MLflow's alias on this machine, model packages on moto, one command for both."""

import json
import shutil

import boto3
import pytest

from components.shared.contracts.stage import ArtifactKind
from components.shared.performance.model_registry import ModelRegistry
from components.shared.storage.artifacts import read_manifest, seal
from components.shared.storage.paths import PROJECT
from pipelines.configuration import load_settings
from pipelines.launch import registry_of

pytestmark = pytest.mark.slow

ACCOUNT, REGION = "123456789012", "us-east-1"
GROUP = "srl-rlvr-prod-npc-dialogue-gold"
NAME = "npc_dialogue-gold"


def policy(tmp_path, text):
    """A sealed folder that stands for a policy's files: the registry looks at its manifest alone."""
    folder = tmp_path / f"policy-{text}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "model.safetensors").write_text(text)
    seal(folder, ArtifactKind.POLICY)
    return folder


def register(uri, tmp_path, text, compared_with):
    registry = ModelRegistry(uri)
    return registry, registry.register(NAME, policy(tmp_path, text), {"compared_with": compared_with}, "card")


@pytest.fixture
def local(tmp_path, configs):
    """Two versions on this machine: the first serves, the second was compared with it and waits."""
    uri = f"sqlite:///{tmp_path}/runs/mlflow/mlflow.db"
    registry, first = register(uri, tmp_path, "one", "base")
    registry.promote(first)
    _, second = register(uri, tmp_path, "two", first.policy_digest)
    registry.challenge(second)
    return registry


def champion(registry):
    return next(v.number for v in registry.versions("npc_dialogue", "gold") if "champion" in v.aliases)


def test_the_waiting_version_is_promoted_and_rolled_back(srl_rlvr, local):
    code, out, _ = srl_rlvr("promote", NAME)
    assert (code, out) == (0, f"{NAME}: 2 serves; before it 1\n")
    assert champion(local) == 2
    assert "it served already" in srl_rlvr("promote", f"{NAME}:2")[1]
    code, out, _ = srl_rlvr("rollback", NAME, "--json")
    assert (code, json.loads(out)["now"], json.loads(out)["before"]) == (0, "1", "2")
    assert champion(local) == 1
    code, _, err = srl_rlvr("rollback", NAME)
    assert code == 2 and "no version served before: there is nothing to go back to" in err


def test_a_roll_back_does_not_return_to_what_was_rolled_back(srl_rlvr, local, tmp_path):
    srl_rlvr("promote", NAME)
    srl_rlvr("rollback", NAME)
    register(f"sqlite:///{tmp_path}/runs/mlflow/mlflow.db", tmp_path, "three", "whatever")
    srl_rlvr("promote", f"{NAME}:3", "--stale")
    srl_rlvr("rollback", NAME)
    assert champion(local) == 1
    srl_rlvr("promote", f"{NAME}:2", "--stale")
    assert local.versions("npc_dialogue", "gold")[1].served, "promoted after all"


def test_a_version_that_was_compared_with_another_is_refused(srl_rlvr, local, tmp_path):
    register(f"sqlite:///{tmp_path}/runs/mlflow/mlflow.db", tmp_path, "three", "somebody else")
    code, out, err = srl_rlvr("promote", f"{NAME}:3")
    assert (code, out) == (3, "")
    assert "version 3 was compared with another policy than version 1" in err and "--stale" in err
    assert champion(local) == 1
    assert srl_rlvr("promote", f"{NAME}:3", "--stale")[0] == 0
    assert champion(local) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["promote", "npc_dialogue"], "'npc_dialogue' ends in no tier: write MODELTYPE-TIER"),
        (["promote", f"{NAME}:9"], f"unknown version of {NAME} '9'"),
        (["promote", "reasoning-gold"], "reasoning-gold: no version is registered: run it first"),
        (["promote", "arn:aws:sagemaker:us-east-1:1:model-package/x/1"], "pass --env of its account"),
        (["rollback", f"{NAME}:1"], "a roll-back goes to the champion before"),
    ],
)
def test_what_cannot_be_promoted(srl_rlvr, local, arguments, said):
    code, out, err = srl_rlvr(*arguments)
    assert (code, out) == (2, "")
    assert said in err and err.count("\n") == 1


@pytest.fixture
def packages(aws, tmp_path, configs):
    """Two packages in the account, each with its version in MLflow: the first serves, the second waits."""
    sagemaker = boto3.client("sagemaker", region_name=REGION)
    sagemaker.create_model_package_group(ModelPackageGroupName=GROUP, ModelPackageGroupDescription="x")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    made = []
    for number, status in enumerate(("Approved", "PendingManualApproval")):
        registry, version = register(uri, tmp_path, f"package-{number}", "base")
        made.append(package(sagemaker, version.policy_digest, status, made[-1] if made else "base"))
        if number == 0:
            registry.promote(version)
    return sagemaker, registry, made


def package(sagemaker, digest, status, compared_with):
    return sagemaker.create_model_package(
        ModelPackageGroupName=GROUP,
        ModelApprovalStatus=status,
        CustomerMetadataProperties={"policy_digest": digest, "compared_with": compared_with},
        InferenceSpecification={
            "Containers": [{"Image": "i"}],
            "SupportedContentTypes": ["application/json"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
    )["ModelPackageArn"]


def status(sagemaker, arn):
    return sagemaker.describe_model_package(ModelPackageName=arn)["ModelApprovalStatus"]


def test_the_package_that_the_report_names_is_promoted_with_mlflows_alias(srl_rlvr, packages):
    sagemaker, registry, (first, second) = packages
    code, out, err = srl_rlvr("promote", second, "--env", "prod")
    assert (code, out) == (0, f"{NAME}: 2 serves; before it 1\n"), err
    assert status(sagemaker, second) == "Approved"
    assert champion(registry) == 2
    assert "it served already" in srl_rlvr("promote", second, "--env", "prod")[1]
    code, out, err = srl_rlvr("rollback", NAME, "--env", "prod")
    assert (code, out) == (0, f"{NAME}: 1 serves; before it 2\n"), err
    assert (status(sagemaker, first), status(sagemaker, second)) == ("Approved", "Rejected")
    assert champion(registry) == 1
    code, _, err = srl_rlvr("rollback", NAME, "--env", "prod")
    assert code == 2 and "no version served before: there is nothing to go back to" in err


def test_the_newest_waiting_package_is_found(srl_rlvr, packages):
    sagemaker, _, (_, second) = packages
    code, _, err = srl_rlvr("promote", NAME, "--env", "prod")
    assert code == 0, err
    assert status(sagemaker, second) == "Approved"
    code, _, err = srl_rlvr("promote", NAME, "--env", "prod")
    assert code == 2 and "no version waits for a person" in err


def test_a_package_compared_with_another_is_refused(srl_rlvr, packages):
    sagemaker, _, _ = packages
    third = package(sagemaker, "c" * 64, "PendingManualApproval", "arn:another")
    code, _, err = srl_rlvr("promote", third, "--env", "prod")
    assert code == 3 and "version 3 was compared with another policy than version 1, which serves now" in err
    assert status(sagemaker, third) == "PendingManualApproval"


def test_an_older_package_serves_once_the_newer_ones_do_not(srl_rlvr, packages):
    sagemaker, registry, (first, second) = packages
    srl_rlvr("promote", second, "--env", "prod")
    sagemaker.update_model_package(ModelPackageArn=first, ModelApprovalStatus="PendingManualApproval")
    assert srl_rlvr("promote", f"{NAME}:1", "--env", "prod")[0] == 3, "2 was not what it was compared with"
    assert srl_rlvr("promote", f"{NAME}:1", "--env", "prod", "--stale")[0] == 0
    assert (status(sagemaker, first), status(sagemaker, second)) == ("Approved", "Rejected")
    assert champion(registry) == 1


def test_an_alias_that_cannot_follow_is_said_and_promoting_what_serves_moves_it(srl_rlvr, packages, tmp_path):
    sagemaker, _, (_, second) = packages
    digest = read_manifest(policy(tmp_path, "late")).digest
    late = package(sagemaker, digest, "PendingManualApproval", second)
    srl_rlvr("promote", second, "--env", "prod")
    code, _, err = srl_rlvr("promote", late, "--env", "prod")
    assert code == 1 and "serves, but MLflow's alias is where it was" in err and f"promote {NAME}:3\n" in err
    registry, _ = register(f"sqlite:///{tmp_path}/mlflow.db", tmp_path, "late", "x")
    assert srl_rlvr("promote", f"{NAME}:3", "--env", "prod")[0] == 0
    assert champion(registry) == 3


def test_a_package_of_another_environment_is_refused(srl_rlvr, packages):
    code, _, err = srl_rlvr("promote", packages[2][1], "--env", "dev")
    assert code == 2 and "is no model package of sagemaker://srl-rlvr-dev: pass --env of its account" in err


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_the_registry_of_an_account_is_the_one_that_its_nights_fill(environment):
    """The groups are named by Terraform and by the state machine after `srl-rlvr-ENV`, in the account's region."""
    settings = load_settings(environment)
    machine = (PROJECT / "step_functions" / "source" / "training_run.yaml").read_text()
    assert "'${name}-' & $replace($run.model_type, '_', '-')" in machine
    registry = registry_of(settings.environment, str(settings.environment.tracking_uri))
    assert registry.group(NAME) == f"srl-rlvr-{environment}-npc-dialogue-gold"
    assert str(settings.environment.registry_uri).endswith(f"region={settings.environment.sagemaker.region}")
    arn = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:model-package/{registry.group(NAME)}/7"
    assert registry.name_of(arn) == NAME


REMEDIES = {
    "ThrottlingException": "wait, or have the quota raised",
    "AccessDeniedException": "let your role do it",
    "ExpiredTokenException": "sign in again (`aws sso login`)",
}


def test_what_aws_refuses_is_one_line_with_the_remedy(srl_rlvr, packages, aws):
    _, registry, (_, second) = packages
    for operation in ("UpdateModelPackage", "DescribeModelPackage", "ListModelPackages"):
        for code, remedy in REMEDIES.items():
            aws("sagemaker", operation, code)
            exit_code, out, err = srl_rlvr("promote", second, "--env", "prod")
            assert (exit_code, out) == (1, "")
            assert code in err and err.endswith(f"{remedy}\n") and err.count("\n") == 1
    assert champion(registry) == 1
