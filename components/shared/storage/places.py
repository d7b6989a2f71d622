"""Folders by where they lie: a path of this machine, or a prefix on S3 (s3://BUCKET/PREFIX).

On S3 an artifact appears as it does on a disk: its manifest goes first when it is replaced and comes last when it is
written, and a reader refuses a folder without one.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.storage.artifacts import MANIFEST, whole, write_text
from components.shared.storage.aws import aws_client, aws_errors

S3 = "s3://"


@contextlib.contextmanager
def fetched(place: str) -> Iterator[Path]:
    """The files below `place`, as a folder for the time of the block; of S3's they are copies.

    Raises PipelineError where nothing lies there, or S3 cannot be asked.
    """
    if not place.startswith(S3):
        if not Path(place).is_dir():
            raise PipelineError(f"no folder {place}: check the path")
        yield Path(place)
        return
    with TemporaryDirectory() as scratch:
        _download(place, Path(scratch))
        yield Path(scratch)


def download(place: str, target: Path) -> None:
    """Copy the files below a prefix of S3 to the folder `target`, which appears whole or not at all.

    Raises PipelineError where nothing lies there, or S3 cannot be asked.
    """
    with whole(target) as folder:
        _download(place, folder)


def _download(place: str, folder: Path) -> None:
    with _s3(place) as (client, bucket, prefix):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        keys = [item["Key"] for page in pages for item in page.get("Contents", ()) if not item["Key"].endswith("/")]
        for key in keys:
            path = folder / key.removeprefix(f"{prefix}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, key, str(path))
    if not keys:
        raise PipelineError(f"nothing lies under {place.rstrip('/')}/: check the bucket and the prefix")


@contextlib.contextmanager
def published(place: str) -> Iterator[Path]:
    """An empty folder whose files are at `place` once the block has ended well; whatever it replaces is gone before."""
    if not place.startswith(S3):
        with whole(Path(place)) as folder:
            yield folder
        return
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        yield folder
        upload(folder, place)


def upload(folder: Path, place: str) -> None:
    """Copy a sealed folder to S3, its manifest last."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    with _s3(place) as (client, bucket, prefix):
        client.delete_object(Bucket=bucket, Key=f"{prefix}/{MANIFEST}")
        for name in sorted(files, key=lambda name: name == MANIFEST):
            client.upload_file(str(folder / name), bucket, f"{prefix}/{name}")


def names(place: str) -> list[str]:
    """The files below a folder or prefix, relative to it, sorted; none where nothing lies there."""
    if not place.startswith(S3):
        found = [path for path in Path(place).rglob("*") if path.is_file()]
        return sorted(path.relative_to(place).as_posix() for path in found)
    with _s3(place) as (client, bucket, prefix):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        return sorted(item["Key"].removeprefix(f"{prefix}/") for page in pages for item in page.get("Contents", ()))


def get_text(place: str) -> str:
    """The text of a file, by its path or its S3 URI. Raises PipelineError where it is not there."""
    if not place.startswith(S3):
        if not Path(place).is_file():
            raise PipelineError(f"no file {place}: check the path")
        return Path(place).read_text(encoding="utf-8")
    with _s3(place) as (client, bucket, key):
        return client.get_object(Bucket=bucket, Key=key)["Body"].read().decode()


def put_text(place: str, text: str) -> None:
    """Write a file whole, at a path or an S3 URI."""
    if not place.startswith(S3):
        write_text(Path(place), text)
        return
    with _s3(place) as (client, bucket, key):
        client.put_object(Bucket=bucket, Key=key, Body=text.encode(), ContentType="application/json")


def put_file(place: str, file: Path) -> None:
    """Copy a file of this machine to an S3 URI, whole or not at all."""
    with _s3(place) as (client, bucket, key):
        client.upload_file(str(file), bucket, key)


@contextlib.contextmanager
def _s3(place: str) -> Iterator[tuple[Any, str, str]]:
    """A client, the bucket and the key or prefix; what S3 refuses becomes one line."""
    bucket, _, key = place.removeprefix(S3).strip("/").partition("/")
    if not place.startswith(S3) or not bucket or not key:
        raise UsageError(f"{place!r} names no prefix: write s3://BUCKET/PREFIX")
    with aws_errors(place):
        yield aws_client("s3"), bucket, key
