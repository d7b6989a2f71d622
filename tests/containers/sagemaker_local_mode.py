"""One execution of a definition in the SageMaker SDK's local mode, each job in a container of the image that it names.

    python sagemaker_local_mode.py REQUEST.json     with an interpreter that has the SDK, and docker-compose on the PATH

Beside the engine's program of the same request, which runs jobs as subprocesses, this one leaves the SDK's own client in
place. What local mode lacks of the service is added around its jobs: it has one host, and knows no uncompressed model.
"""

import json
import sys
import tarfile
import tempfile
from pathlib import Path

import boto3
from sagemaker.core.local.local_session import LocalSagemakerClient
from sagemaker.mlops.local.local_pipeline_session import LocalPipelineSession
from sagemaker.mlops.workflow.pipeline import Pipeline

from pipelines.engines.sagemaker_jobs import upload
from pipelines.engines.sagemaker_sdk import QUIET, REGION, Loader, storage

ROOT_USER = "0:0"
"""The images of an environment with an account are built to run as root, whose /opt/ml is."""


class OneHost(LocalSagemakerClient):
    """Trains on this machine, and leaves models where CompressionType NONE says."""

    def create_training_job(self, name, **request):
        request["ResourceConfig"] = {**request["ResourceConfig"], "InstanceType": "local", "InstanceCount": 1}
        # Sums over more threads have other last digits than those of the run that this one is compared with.
        request["Environment"] = {**request.get("Environment", {}), "OMP_NUM_THREADS": "1"}
        super().create_training_job(name, **request)
        archive = self.describe_training_job(name)["ModelArtifacts"]["S3ModelArtifacts"]
        s3, (bucket, _, key) = self.sagemaker_session.s3_client, archive.removeprefix("s3://").partition("/")
        with tempfile.TemporaryDirectory() as folder:
            s3.download_file(bucket, key, f"{folder}/model.tar.gz")
            with tarfile.open(f"{folder}/model.tar.gz") as model:
                model.extractall(f"{folder}/model", filter="data")
            upload(s3, Path(folder) / "model", f"{request['OutputDataConfig']['S3OutputPath']}/{name}/output/model")


def execute(request: dict, endpoint: str) -> dict:
    """Run the definition, bring everything that it wrote to the request's folder; returns status, reason and steps."""
    session = LocalPipelineSession(
        boto_session=boto3.Session(region_name=REGION),
        s3_endpoint_url=endpoint,
        default_bucket=request["bucket"],
        sagemaker_config=QUIET,
    )
    work = Path(request["folder"])
    session.context = None
    session.config = {"local": {"container_root": str(work), "container_config": {"user": ROOT_USER}}}
    session.sagemaker_client = OneHost(session)
    s3 = session.s3_client
    s3.create_bucket(Bucket=request["bucket"])
    for uri, folder in request["uploads"].items():
        upload(s3, Path(folder), uri)
    loaded = Loader(request["definition"])
    pipeline = Pipeline(
        name=request["name"],
        parameters=list(loaded.parameters.values()),
        steps=loaded.steps,
        sagemaker_session=session,
    )
    session.create_pipeline(pipeline, request["name"])
    execution = session.start_pipeline_execution(request["name"], PipelineParameters=request["parameters"])
    described = execution.describe()
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=request["bucket"]):
        for key in (item["Key"] for item in page.get("Contents", ())):
            path = work / "bucket" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(request["bucket"], key, str(path))
    return {
        "status": described["PipelineExecutionStatus"],
        "reason": described.get("FailureReason"),
        "steps": {name: str(step.status) for name, step in execution.step_execution.items()},
    }


def main(argv: list[str]) -> int:
    request = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    with storage(None) as endpoint:
        ended = execute(request, endpoint)
    (Path(request["folder"]) / "ended.json").write_text(json.dumps(ended), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
