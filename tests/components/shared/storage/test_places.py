"""Files on S3 as on a disk, and what AWS refuses as one line."""

import boto3
import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from moto import mock_aws

from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.storage.aws import aws_errors
from components.shared.storage.places import download, fetched, put_text

PLACE = "s3://bucket/runs/7/report"


@pytest.fixture
def bucket(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
        yield


@pytest.mark.parametrize("place", [PLACE, f"{PLACE}/"])
def test_what_lies_below_a_prefix_is_copied_with_its_folders_and_nothing_beside_it(bucket, tmp_path, place):
    for name in ("report.json", "figures/one.json"):
        put_text(f"{PLACE}/{name}", name)
    put_text(f"{PLACE}-of-another/report.json", "")
    download(place, tmp_path / "report")
    found = {p.relative_to(tmp_path / "report").as_posix(): p.read_text() for p in tmp_path.rglob("*.json")}
    assert found == {name: name for name in ("report.json", "figures/one.json")}
    with fetched(place) as copy:
        assert (copy / "figures" / "one.json").read_text() == "figures/one.json"


def test_what_is_not_there_leaves_nothing(bucket, tmp_path):
    with pytest.raises(PipelineError, match=f"nothing lies under {PLACE}/: check the bucket and the prefix"):
        download(PLACE, tmp_path / "report")
    with pytest.raises(PipelineError, match=r"s3://none/x: NoSuchBucket: .*: check the name and the account"):
        download("s3://none/x", tmp_path / "report")
    with pytest.raises(UsageError, match="'runs/7' names no prefix: write s3://BUCKET/PREFIX"):
        download("runs/7", tmp_path / "report")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("ExpiredTokenException", "sign in again"),
        ("AccessDeniedException", "let your role do it"),
        ("ThrottlingException", "wait"),
    ],
)
def test_awss_refusals_are_one_line(code, said):
    with pytest.raises(PipelineError, match=said) as caught, aws_errors("pipeline x"):
        raise ClientError({"Error": {"Code": code, "Message": "two\n lines"}}, "op")
    assert "\n" not in str(caught.value)
    with pytest.raises(PipelineError, match="no AWS credentials"), aws_errors("pipeline x"):
        raise NoCredentialsError
