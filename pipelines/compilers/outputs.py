"""The files that compiling a DAG gives, by name, before any of them is written."""

import json

from components.shared.contracts.errors import UsageError, unknown
from components.shared.contracts.records import Tier
from pipelines.compilers.kubeflow import compile_dag, to_yaml
from pipelines.configuration import load_settings

TARGETS = ("kfp", "sagemaker", "monitoring", "all")


def compiled_files(dag_name: str, tier: Tier, environment: str, target: str, graph: bool = False) -> dict[str, str]:
    """STEM.yaml for KFP; STEM.sagemaker.json, STEM.sagemaker.request.json and STEM.svg for SageMaker.

    No DAG has dashboards and alarms of its own (monitoring.py), so that `monitoring` gives none here.
    Where a job runs on Spot, STEM-on-demand.sagemaker.json and its request are what the night falls back to, once the data
    set is there.
    Raises UsageError for whatever cannot be compiled.
    """
    if target not in TARGETS:
        raise unknown("target", target, TARGETS)
    if target == "monitoring":
        return {}
    if graph and target == "kfp":
        raise UsageError("--graph draws the SageMaker pipeline: add --target sagemaker")
    dag = compile_dag(dag_name, load_settings(environment, tier))
    files = {}
    if target != "sagemaker":
        files[f"{dag.file_stem}.yaml"] = to_yaml(dag)
    if target != "kfp":
        from pipelines.compilers.graph import to_svg
        from pipelines.compilers.sagemaker import compile_sagemaker, on_demand_stem, uses_spot

        pipeline = compile_sagemaker(dag)
        pipelines = {dag.file_stem: pipeline}
        if uses_spot(dag):
            pipelines[on_demand_stem(dag)] = compile_sagemaker(dag, on_demand=True)
        for stem, compiled in pipelines.items():
            files[f"{stem}.sagemaker.json"] = compiled.definition_text()
            files[f"{stem}.sagemaker.request.json"] = json.dumps(compiled.request(), indent=1) + "\n"
        if graph:
            files[f"{dag.file_stem}.svg"] = to_svg(pipeline.name, pipeline.definition)
    return files
