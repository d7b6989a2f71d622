"""The files that compiling a DAG gives, by name, before any of them is written."""

import json

from components.shared.contracts.errors import UsageError, unknown
from components.shared.contracts.records import Tier
from pipelines.compilers.kubeflow import compile_dag, to_yaml
from pipelines.configuration import load_settings

TARGETS = ("kfp", "sagemaker", "all")


def compiled_files(dag_name: str, tier: Tier, environment: str, target: str, graph: bool = False) -> dict[str, str]:
    """STEM.yaml for KFP; STEM.sagemaker.json, STEM.sagemaker.request.json and STEM.svg for SageMaker.

    Raises UsageError for whatever cannot be compiled.
    """
    if target not in TARGETS:
        raise unknown("target", target, TARGETS)
    if graph and target == "kfp":
        raise UsageError("--graph draws the SageMaker pipeline: add --target sagemaker")
    dag = compile_dag(dag_name, load_settings(environment, tier))
    files = {}
    if target != "sagemaker":
        files[f"{dag.file_stem}.yaml"] = to_yaml(dag)
    if target != "kfp":
        from pipelines.compilers.graph import to_svg
        from pipelines.compilers.sagemaker import compile_sagemaker

        pipeline = compile_sagemaker(dag)
        files[f"{dag.file_stem}.sagemaker.json"] = pipeline.definition_text()
        files[f"{dag.file_stem}.sagemaker.request.json"] = json.dumps(pipeline.request(), indent=1) + "\n"
        if graph:
            files[f"{dag.file_stem}.svg"] = to_svg(pipeline.name, pipeline.definition)
    return files
