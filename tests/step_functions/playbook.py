"""A playbook's commands, carried out on the stand-in account as the AWS CLI would."""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from aws_account import AwsAccount
from aws_calls import operation
from botocore import xform_name

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "recovery"
SERVICES = {"s3api": "s3"}


def commands(page: str) -> list[str]:
    """The lines of a page's bash blocks, in their order."""
    blocks = re.findall(r"```bash\n(.*?)```", (FOLDER / page).read_text(encoding="utf-8"), re.S)
    return [line for block in blocks for line in block.splitlines() if line.startswith("aws ")]


def follow(account: AwsAccount, command: str, variables: Mapping[str, str]) -> Any:
    """Carry out one command. Raises KeyError for a variable that the page did not name, ClientError as the CLI fails."""
    _, service, verb, *words = shlex.split(Template(command).substitute(variables))
    if service == "s3":
        return _file_command(account, verb, words)
    service = SERVICES.get(service, service)
    name = verb.replace("-", "_")
    members = operation(service, name).input_shape.members
    known = {xform_name(member, "-"): member for member in members}
    options = {word.removeprefix("--"): value for word, value in zip(words[::2], words[1::2], strict=True)}
    parameters = {
        known[option]: int(value) if members[known[option]].type_name == "integer" else value
        for option, value in options.items()
    }
    return account.call(service, name, parameters)


def _file_command(account: AwsAccount, verb: str, words: list[str]) -> Any:
    bucket, _, key = words[0].removeprefix("s3://").partition("/")
    if verb == "rm":
        return account.call("s3", "delete_object", {"Bucket": bucket, "Key": key})
    assert (verb, words[1]) == ("cp", "-")
    return json.loads(account.call("s3", "get_object", {"Bucket": bucket, "Key": key})["Body"])
