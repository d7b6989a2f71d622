"""configs/srl_rlvr_training.yaml says every key of both stages, with the default that the specs have, and what it means."""

import json

import pytest
from pydantic import BaseModel

from components.catalogue import spec_of
from components.shared.contracts.configuration import parse_config
from components.shared.storage.paths import PROJECT
from components.shared.storage.yaml_files import read_mapping

FILE = PROJECT / "configs" / "srl_rlvr_training.yaml"


def keys(values: dict, prefix: str = "") -> set[str]:
    nested = [keys(value, f"{prefix}{key}.") for key, value in values.items() if isinstance(value, dict)]
    return {f"{prefix}{key}" for key in values}.union(*nested)


def fields(shape: BaseModel, prefix: str = "") -> set[str]:
    nested = [
        fields(value, f"{prefix}{name}.")
        for name in type(shape).model_fields
        if isinstance(value := getattr(shape, name), BaseModel)
    ]
    return {f"{prefix}{name}" for name in type(shape).model_fields}.union(*nested)


@pytest.mark.parametrize("stage", ["srl", "rlvr"])
def test_every_key_is_there_with_its_default(stage):
    written, shape = read_mapping(FILE)[stage], spec_of(stage).config
    assert keys(written) == fields(shape())
    assert parse_config(shape, written, stage) == shape()


def test_every_key_says_what_it_means():
    lines = [line for line in FILE.read_text().splitlines() if line.strip() and not line.startswith("#")]
    bare = [line for line in lines if " # " not in line and line not in ("srl:", "rlvr:")]
    assert bare == []


@pytest.mark.parametrize("stage", ["srl", "rlvr"])
def test_a_configuration_survives_the_way_through_a_pipeline_as_json(stage):
    shape = spec_of(stage).config
    assert shape.model_validate(json.loads(shape().model_dump_json())) == shape()
