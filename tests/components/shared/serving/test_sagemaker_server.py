"""Requests and answers checked against botocore's service models; nothing leaves the machine."""

import asyncio
import io
import json
import tarfile

import boto3
import pytest
from botocore.response import StreamingBody
from botocore.stub import ANY, Stubber

from components.shared.contracts.errors import UsageError
from components.shared.serving.adapters import Adapter, check
from components.shared.serving.sagemaker_server import SageMakerServer, archive
from components.shared.serving.srl_model_adapter import Unavailable, ask

ARN = "arn:aws:sagemaker:eu-west-1:123456789012:"


@pytest.fixture
def clients():
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "eu-west-1"}
    stubs = {name: Stubber(boto3.client(name, **keys)) for name in ("sagemaker", "sagemaker-runtime", "s3")}
    for stub in stubs.values():
        stub.activate()
    yield stubs
    for stub in stubs.values():
        stub.assert_no_pending_responses()


@pytest.fixture
def server(clients, base):
    return SageMakerServer(
        base,
        endpoint="npc",
        bucket="models",
        prefix="adapters/",
        sagemaker=clients["sagemaker"].client,
        runtime=clients["sagemaker-runtime"].client,
        s3=clients["s3"].client,
        poll_s=0.0,
    )


@pytest.fixture
def adapter(make_adapter, base):
    return check(make_adapter(1), "npc_dialogue", base)


def described(name, status, **more):
    return {
        "InferenceComponentName": name,
        "InferenceComponentArn": f"{ARN}inference-component/{name}",
        "EndpointName": "npc",
        "EndpointArn": f"{ARN}endpoint/npc",
        "CreationTime": 0,
        "LastModifiedTime": 0,
        "InferenceComponentStatus": status,
        **more,
    }


def test_loading_uploads_the_archive_and_waits_for_the_component(clients, server, adapter):
    sagemaker, name = clients["sagemaker"], {"InferenceComponentName": adapter.name}
    key = f"adapters/{adapter.name}.tar.gz"
    sagemaker.add_client_error("describe_inference_component", "ValidationException", "Could not find")
    clients["s3"].add_response("put_object", {}, {"Bucket": "models", "Key": key, "Body": archive(adapter.folder)})
    sagemaker.add_response(
        "create_inference_component",
        {"InferenceComponentArn": f"{ARN}inference-component/x"},
        {
            **name,
            "EndpointName": "npc",
            "Specification": {
                "BaseInferenceComponentName": "base",
                "Container": {"ArtifactUrl": f"s3://models/{key}"},
            },
        },
    )
    for status in ("Creating", "Creating", "InService"):
        sagemaker.add_response("describe_inference_component", described(adapter.name, status), name)
    asyncio.run(server.load(adapter))


def test_loading_again_uploads_nothing_and_a_failure_says_why(clients, server, adapter):
    sagemaker = clients["sagemaker"]
    for _ in range(2):
        sagemaker.add_response("describe_inference_component", described(adapter.name, "InService"))
    asyncio.run(server.load(adapter))
    sagemaker.add_response(
        "describe_inference_component", described(adapter.name, "Failed", FailureReason="rank too large")
    )
    with pytest.raises(Unavailable, match="rank too large"):
        asyncio.run(server.load(adapter))


def test_a_request_goes_to_the_adapters_component(clients, server):
    reply = {
        "choices": [{"message": {"content": "at dawn"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 2},
    }
    body = json.dumps(reply).encode()
    clients["sagemaker-runtime"].add_response(
        "invoke_endpoint",
        {"Body": StreamingBody(io.BytesIO(body), len(body))},
        {
            "EndpointName": "npc",
            "InferenceComponentName": "npc-dialogue-1",
            "ContentType": "application/json",
            "Body": ANY,
        },
    )
    answer = asyncio.run(server.generate("npc-dialogue-1", ask("the bell", 5)))
    assert (answer.text, answer.model, answer.completion_tokens) == ("at dawn", "npc-dialogue-1", 2)
    clients["sagemaker-runtime"].add_client_error("invoke_endpoint", "ModelNotReadyException", "still loading")
    with pytest.raises(Unavailable, match="still loading"):
        asyncio.run(server.generate("npc-dialogue-1", ask("the bell", 5)))


def test_the_list_is_read_to_its_end_without_the_base(clients, server):
    def item(name):
        described_item = described(name, "InService")
        return {**described_item, "VariantName": "main"}

    query = {"EndpointNameEquals": "npc", "StatusEquals": "InService"}
    page = {"InferenceComponents": [item("base"), item("one")], "NextToken": "more"}
    clients["sagemaker"].add_response("list_inference_components", page, query)
    last = {"InferenceComponents": [item("two")]}
    clients["sagemaker"].add_response("list_inference_components", last, {**query, "NextToken": "more"})
    assert asyncio.run(server.list_adapters()) == {"one", "two"}


def test_an_archive_is_a_function_of_the_content(make_adapter):
    folder = make_adapter(1)
    data = archive(folder)
    (folder / "adapter_config.json").touch()
    assert archive(folder) == data
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert "adapter_model.safetensors" in tar.getnames()


def test_a_whole_policy_is_no_component(server, tmp_path):
    with pytest.raises(UsageError, match="LoRA"):
        asyncio.run(server.load(Adapter(name="x", folder=tmp_path, digest="0" * 64, rank=None)))
