"""`run --engine sagemaker` asks whose account it is before anything is created: one line each, and no run's folder."""

import json

import boto3
import pytest

ACCOUNT, REGION = "123456789012", "us-east-1"
RUN = ("run", "post_training", "--engine", "sagemaker", "--env", "prod", "--tier", "gold")
ROLES = ("pipeline", "trajectory-generation", "registration")


@pytest.fixture
def roles(aws):
    """The roles that the environment names."""
    iam = boto3.client("iam", region_name=REGION)
    for name in ROLES:
        iam.create_role(RoleName=f"srl-rlvr-prod-{name}", AssumeRolePolicyDocument=json.dumps({"Statement": []}))
    return iam


def refused(srl_rlvr, tmp_path, code, said):
    exit_code, out, err = srl_rlvr(*RUN)
    assert (exit_code, out) == (code, "")
    assert said in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_missing_role(srl_rlvr, roles, tmp_path):
    roles.delete_role(RoleName="srl-rlvr-prod-registration")
    role = f"arn:aws:iam::{ACCOUNT}:role/srl-rlvr-prod-registration"
    refused(
        srl_rlvr, tmp_path, 2, f"role {role} does not exist: `srl-rlvr deploy --env prod --without-pipelines` makes it"
    )


def test_credentials_that_expired(srl_rlvr, roles, aws, tmp_path):
    aws("sts", "GetCallerIdentity", "ExpiredToken", "The security token included in the request is expired")
    refused(srl_rlvr, tmp_path, 1, "security token included in the request is expired: sign in again (`aws sso login`)")


def test_no_credentials(srl_rlvr, roles, aws, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    boto3.setup_default_session()
    refused(srl_rlvr, tmp_path, 1, "credentials: no AWS credentials: run `aws sso login`, or set AWS_PROFILE")


def test_another_account(srl_rlvr, roles, configs, tmp_path):
    file = configs / "environments" / "prod.yaml"
    file.write_text(file.read_text().replace(ACCOUNT, "999988887777"))
    refused(
        srl_rlvr, tmp_path, 2, f"the credentials are of account {ACCOUNT}, environment 'prod' is account 999988887777"
    )


def test_who_may_not_look_at_roles_is_not_stopped_for_it(srl_rlvr, roles, aws, tmp_path):
    """The next question is asked: whether the pipeline is deployed."""
    aws("iam", "GetRole", "AccessDenied")
    code, _, err = srl_rlvr(*RUN)
    assert code != 0 and "GetRole" not in err and "pipeline srl-rlvr-post-training-gold is not deployed" in err
