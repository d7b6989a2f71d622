"""The definitions as they would be deployed, to the byte."""

import json
import os
from pathlib import Path

import pytest

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Tier
from pipelines.compilers.kubeflow import compile_dag
from pipelines.compilers.sagemaker import compile_sagemaker, on_demand_stem, uses_spot
from pipelines.compilers.sagemaker_checks import all_steps
from pipelines.configuration import load_settings

GOLDEN = Path(__file__).parents[1] / "golden" / "sagemaker"


def test_golden(dag, sagemaker_pipeline):
    """To accept a change: SRL_RLVR_GOLDEN=write pytest tests/pipelines/compilers, then read the difference."""
    path, text = GOLDEN / f"{dag.file_stem}.json", sagemaker_pipeline.definition_text()
    if os.environ.get("SRL_RLVR_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


def test_golden_on_demand(dag):
    if not uses_spot(dag):
        with pytest.raises(UsageError, match="on demand already"):
            compile_sagemaker(dag, on_demand=True)
        return
    path = GOLDEN / f"{dag.file_stem}-on-demand.json"
    text = compile_sagemaker(dag, on_demand=True).definition_text()
    if os.environ.get("SRL_RLVR_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


DATA = {"trajectory-generation", "verification", "data-validation"}
DATASET = '{"Get": "Steps.data-validation.ProcessingOutputConfig.Outputs[\'dataset\'].S3Output.S3Uri"}'


def test_the_second_definition_differs_in_spot_in_its_data_and_in_where_its_runs_lie_alone(dag, sagemaker_pipeline):
    """The same checkpoints above all: what Spot trained before it was lost is where the second one goes on."""
    if not uses_spot(dag):
        return
    second = compile_sagemaker(dag, on_demand=True)
    assert second.name == f"{sagemaker_pipeline.name}-on-demand"
    trainers = [step for step in all_steps(second.definition["Steps"]) if step["Type"] == "Training"]
    assert trainers and not any(step["Arguments"]["EnableManagedSpotTraining"] for step in trainers)
    first = json.loads(
        sagemaker_pipeline.definition_text().replace(f"/runs/{dag.file_stem.replace('_', '-')}", "/runs/X")
    )
    other = json.loads(
        second.definition_text().replace(f"/runs/{dag.file_stem.replace('_', '-')}-on-demand", "/runs/X")
    )
    for step in all_steps(first["Steps"]):
        if step["Type"] == "Training":
            step["Arguments"]["EnableManagedSpotTraining"] = False
            step["Arguments"]["StoppingCondition"].pop("MaxWaitTimeInSeconds")
    if dag.name == "post_training":
        # It trains on what the first one's data stages have made, and takes none of their parameters.
        first["Steps"] = [step for step in first["Steps"] if step["Name"] not in DATA]
        first = json.loads(json.dumps(first).replace(DATASET, '{"Get": "Parameters.dataset_uri"}'))
        names = [{parameter["Name"] for parameter in found.pop("Parameters")} for found in (first, other)]
        assert names[1] == names[0] - {"world", "threshold", "accepted"} | {"dataset_uri"}
    assert other == first


def test_every_golden_file_is_of_a_definition(dags):
    stems = {dag.file_stem for dag in dags.values()} | {on_demand_stem(dag) for dag in dags.values() if uses_spot(dag)}
    assert {path.stem for path in GOLDEN.glob("*.json")} == stems


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
