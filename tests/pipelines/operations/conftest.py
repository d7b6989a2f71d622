"""The commands as they are typed, in this process, on moto's account."""

import functools
import re
import shutil
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from components.shared.storage.paths import PROJECT

ACCOUNT, REGION = "123456789012", "us-east-1"


@pytest.fixture
def configs(tmp_path, monkeypatch) -> Path:
    """A copy of the configurations, with moto's account in place of the documentation's."""
    folder = tmp_path / "configs"
    shutil.copytree(PROJECT / "configs", folder, ignore=shutil.ignore_patterns("models", "worlds"))
    for name in ("dev", "prod"):
        file = folder / "environments" / f"{name}.yaml"
        text = file.read_text().replace("111122223333", ACCOUNT)
        # The account's MLflow is a server that moto has not: SQLite stands in.
        file.write_text(
            re.sub(r"^tracking_uri: .*$", f"tracking_uri: sqlite:///{tmp_path}/mlflow.db", text, flags=re.M)
        )
    monkeypatch.setenv("SRL_RLVR_CONFIGS", str(folder))
    return folder


@pytest.fixture
def aws(monkeypatch, configs):
    """moto's account; `fault(service, operation, code)` makes every call of it fail from then on."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    original, faults = boto3.client, {}

    def client(service, **options):
        made = original(service, **options)
        for (faulty, operation), (code, message) in faults.items():
            if faulty == service:

                def fail(code=code, message=message, operation=operation, **_):
                    raise ClientError({"Error": {"Code": code, "Message": message}}, operation)

                made.meta.events.register(f"before-call.{service}.{operation}", fail)
        return made

    with mock_aws():
        monkeypatch.setattr(boto3, "client", client)

        def fault(service, operation, code, message="injected"):
            faults[service, operation] = (code, message)

        yield fault


class Ok:
    """An HTTP response that botocore takes for a good one."""

    status_code = 200


def answered(answer, params, **_):
    return Ok(), answer(params) if callable(answer) else answer


@pytest.fixture
def sagemaker_says(aws, monkeypatch):
    """Gives SageMaker's answers by operation, where moto has none: each as it is, or what it makes of the call."""
    known = boto3.client

    def say(answers):
        def client(service, **options):
            made = known(service, **options)
            for operation, answer in answers.items() if service == "sagemaker" else ():
                made.meta.events.register(f"before-call.sagemaker.{operation}", functools.partial(answered, answer))
            return made

        monkeypatch.setattr(boto3, "client", client)

    return say
