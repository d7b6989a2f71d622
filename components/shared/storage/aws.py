"""AWS from everywhere in this project: a client made at its first use, and what AWS refuses as one line with its remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from components.shared.contracts.errors import PipelineError, UsageError


def aws_client(service: str, region: str | None = None) -> Any:
    """A client of one service, in the region of the environment where none is given; boto3 is imported here, since most
    commands never need it."""
    import boto3

    return boto3.client(service, region_name=region)


@contextmanager
def aws_errors(what: str) -> Iterator[None]:
    """AWS's refusals as a PipelineError of one line that names the thing and says what to do; UsageError without boto3."""
    try:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
    except ModuleNotFoundError as error:
        raise UsageError(f"{what}: {error}: install the extra `aws`") from error

    try:
        yield
    except NoCredentialsError as error:
        raise PipelineError(f"{what}: no AWS credentials: run `aws sso login`, or set AWS_PROFILE") from error
    except ClientError as error:
        code, message = error.response["Error"]["Code"], " ".join(error.response["Error"]["Message"].split())
        raise PipelineError(f"{what}: {code}: {message}: {remedy(code)}") from error
    except (BotoCoreError, Boto3Error) as error:
        raise PipelineError(f"{what}: {' '.join(str(error).split())}: check region and network") from error


def remedy(code: str) -> str:
    """What to do about an error of AWS."""
    if "Expired" in code or "UnrecognizedClient" in code or "InvalidClientToken" in code:
        return "sign in again (`aws sso login`)"
    if "AccessDenied" in code:
        return "let your role do it"
    if code in ("ValidationException", "ValidationError"):
        return "check the name, the account and the region"
    if "Throttl" in code or "LimitExceeded" in code:
        return "wait, or have the quota raised"
    return "check the name and the account"
