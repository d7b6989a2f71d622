"""The definitions as they would be deployed, to the byte."""

import json
import os
from pathlib import Path

from components.shared.contracts.records import Tier
from pipelines.compilers.kubeflow import compile_dag
from pipelines.compilers.sagemaker import compile_sagemaker
from pipelines.configuration import load_settings

GOLDEN = Path(__file__).parents[1] / "golden" / "sagemaker"


def test_golden(dag, sagemaker_pipeline):
    """To accept a change: SRL_RLVR_GOLDEN=write pytest tests/pipelines/compilers, then read the difference."""
    path, text = GOLDEN / f"{dag.file_stem}.json", sagemaker_pipeline.definition_text()
    if os.environ.get("SRL_RLVR_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


def test_every_golden_file_is_of_a_definition(dags):
    assert {path.stem for path in GOLDEN.glob("*.json")} == {dag.file_stem for dag in dags.values()}


def test_the_tier_changes_machines_and_the_environment_changes_the_account():
    gold, bronze = (
        {step["Name"]: step for step in compiled(Tier(tier), "prod")["Steps"]} for tier in ("gold", "bronze")
    )
    assert gold["srl"]["Arguments"]["ResourceConfig"]["InstanceType"] == "ml.g6.12xlarge"
    assert gold["srl"]["Arguments"]["EnableManagedSpotTraining"] is True
    assert bronze["srl"]["Arguments"]["ResourceConfig"]["InstanceCount"] == 4
    assert bronze["srl"]["Arguments"]["EnableManagedSpotTraining"] is False
    dev = json.dumps(compiled(Tier.GOLD, "dev"))
    assert "srl-rlvr-dev" in dev
    assert "srl-rlvr-prod" not in dev


def compiled(tier, environment):
    return compile_sagemaker(compile_dag("post_training", load_settings(environment, tier))).definition
