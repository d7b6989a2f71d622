"""Is this the account that is meant? Asked before anything is created in it."""

from components.shared.contracts.errors import UsageError
from components.shared.storage.aws import aws_client, aws_errors
from pipelines.job_settings import SageMaker


def check_identity(account: SageMaker, environment: str) -> None:
    """Raise UsageError where the credentials are of another account; PipelineError where there are none, or expired ones."""
    with aws_errors("credentials"):
        found = aws_client("sts", account.region).get_caller_identity()["Account"]
    if found != account.account_id:
        raise UsageError(
            f"the credentials are of account {found}, environment {environment!r} is account {account.account_id}: "
            f"set AWS_PROFILE, or sagemaker.account_id of configs/environments/{environment}.yaml"
        )


def check_roles(account: SageMaker, environment: str) -> None:
    """Raise UsageError for a role that is not there. Who may not ask is not stopped: AWS will say so itself."""
    from botocore.exceptions import ClientError

    iam = aws_client("iam", account.region)
    for arn in dict.fromkeys([account.role_arn, *account.roles.values()]):
        with aws_errors(arn):
            try:
                iam.get_role(RoleName=arn.rpartition("/")[2])
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code == "NoSuchEntity":
                    raise UsageError(
                        f"role {arn} does not exist: `srl-rlvr deploy --env {environment} --without-pipelines` makes it"
                    ) from error
                if code not in ("AccessDenied", "AccessDeniedException"):
                    raise


def check(account: SageMaker, environment: str) -> None:
    """Both: the account, and its roles."""
    check_identity(account, environment)
    check_roles(account, environment)
