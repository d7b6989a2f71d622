"""The SageMaker SDK as oracle: the pipeline built from its own classes gives the same definition, but for what is listed.

Needs an interpreter that has the SDK (`make sagemaker`).
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Tier
from components.shared.storage.paths import PROJECT
from pipelines.engines.sagemaker_local import sdk_interpreter

pytestmark = pytest.mark.slow
ORACLE = Path(__file__).with_name("sdk_oracle.py")
EXPLAINED = {
    r"\.Description$": "the SDK describes no parameters, and the oracle's steps were not given ours",
    r"\.DisplayName$": "the oracle's steps were not given ours",
    r"\.AlgorithmSpecification\.Container(Entrypoint|Arguments)\[\d\]$": (
        "ModelTrainer sets a command only for source code that it uploads; ours lies in the image"
    ),
    r"\.InputDataConfig\[\w+\]\.InputMode$": "the SDK repeats TrainingInputMode for each channel",
}
WHOLE = pytest.mark.whole
CASES = [
    ("nightly", Tier.BRONZE),
    pytest.param("post_training", Tier.GOLD, marks=WHOLE),
    pytest.param("distillation", Tier.SILVER, marks=WHOLE),
]


@pytest.fixture(scope="module")
def interpreter():
    try:
        return sdk_interpreter()
    except UsageError as error:
        pytest.skip(str(error))


def flattened(value, path=""):
    """Every leaf by its path; list items by what names them, so that order matters only where nothing does."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flattened(item, f"{path}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            names = ("Name", "OutputName", "InputName", "ChannelName", "Key", "PropertyFileName")
            named = next((item[key] for key in names if key in item), number) if isinstance(item, dict) else number
            yield from flattened(item, f"{path}[{named}]")
    else:
        yield path, value


@pytest.mark.parametrize(("name", "tier"), CASES)
def test_the_sdk_gives_the_same_definition(definitions, interpreter, name, tier):
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [str(interpreter), str(ORACLE), name, tier, "prod"]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=PROJECT)
    assert ran.returncode == 0, ran.stderr[-2000:]
    ours, sdk = (dict(flattened(found)) for found in (definitions[name, tier].definition, json.loads(ran.stdout)))
    different = {path for path in ours.keys() | sdk.keys() if ours.get(path, "-") != sdk.get(path, "-")}
    unexplained = {path for path in different if not any(re.search(pattern, path) for pattern in EXPLAINED)}
    assert {path: (ours.get(path), sdk.get(path)) for path in sorted(unexplained)} == {}
    assert all(any(re.search(pattern, path) for path in different) for pattern in EXPLAINED)
