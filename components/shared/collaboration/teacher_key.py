"""The key to a teacher's endpoint, from the environment or AWS Secrets Manager; it is in no configuration and no log."""

import json
import os

from components.shared.contracts.errors import UsageError


def teacher_key(variable: str | None, secret: str | None = None) -> str | None:
    """The key in `variable`, else in `secret`; none where neither is named.

    A secret is the key itself, or a JSON object with one entry. Raises UsageError where what is named holds no key.
    """
    if variable is None and secret is None:
        return None
    if variable is not None and (key := os.environ.get(variable)):
        return key
    if secret is not None:
        return _from_secret(secret)
    raise UsageError(f"environment variable {variable} holds no key for the teacher: export it")


def _from_secret(secret: str) -> str:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        text = boto3.client("secretsmanager").get_secret_value(SecretId=secret).get("SecretString", "")
    except (BotoCoreError, ClientError) as error:
        raise UsageError(f"secret {secret} cannot be read ({error}): check its name, region and policy") from None
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    values = list(value.values()) if isinstance(value, dict) else [text]
    if len(values) != 1 or not isinstance(values[0], str) or not values[0]:
        raise UsageError(f"secret {secret} holds no key: store the key, or a JSON object with one entry")
    return values[0]
