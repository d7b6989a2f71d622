"""Artifacts appear whole or not at all.

A folder is written under a temporary name, every file is flushed, a manifest with SHA-256 sums is written last, and the
folder is renamed into place. A reader refuses what its manifest does not cover.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import JsonValue, ValidationError

from components.shared.contracts.errors import CorruptArtifact, PipelineError
from components.shared.contracts.records import Record
from components.shared.contracts.stage import ArtifactKind

MANIFEST = "manifest.json"


class Manifest(Record):
    """The last file of an artifact: what it is and what it holds."""

    kind: ArtifactKind
    files: dict[str, str]
    """SHA-256 by path relative to the artifact's folder."""
    metadata: dict[str, JsonValue] = {}
    """Facts that a reader needs before opening the files; no paths, hosts or times."""

    @property
    def digest(self) -> str:
        """The artifact's identity: SHA-256 of the manifest as canonical JSON."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json")).encode()).hexdigest()


def canonical_json(value: JsonValue) -> str:
    """JSON with sorted keys and no spare white space: equal values have equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def seal(folder: Path, kind: ArtifactKind, metadata: dict[str, JsonValue] | None = None) -> Manifest:
    """Flush every file of `folder` to disk and write its manifest last.

    Files become readable by everyone who reaches the folder: the next stage may be a container with a user of its own, and
    safetensors writes files that only their owner can read.
    """
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        path.chmod(path.stat().st_mode | 0o444)
        _fsync(path)
        files[path.relative_to(folder).as_posix()] = file_digest(path)
    manifest = Manifest(kind=kind, files=files, metadata=metadata or {})
    write_text(folder / MANIFEST, canonical_json(manifest.model_dump(mode="json")) + "\n")
    return manifest


def verify(folder: Path, kind: ArtifactKind | None = None) -> Manifest:
    """The manifest of `folder`, after checking every sum.

    Raises CorruptArtifact when the manifest is missing or malformed, is of another kind, or any file is missing, altered
    or not covered by it.
    """
    manifest = read_manifest(folder)
    if kind is not None and manifest.kind != kind:
        raise CorruptArtifact(f"{folder} holds a {manifest.kind}, not a {kind}: pass the right artifact")
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {MANIFEST}
    for name in sorted(present ^ manifest.files.keys()):
        state = "is not covered by its manifest" if name in present else "is missing"
        raise CorruptArtifact(f"{folder / name} {state}: produce the artifact again")
    for name, digest in manifest.files.items():
        if file_digest(folder / name) != digest:
            raise CorruptArtifact(f"{folder / name} does not match its manifest: produce the artifact again")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest as written, sums unchecked."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise PipelineError(f"no artifact at {folder}: check the path")
    if not path.is_file():
        raise CorruptArtifact(f"{folder} has no {MANIFEST}: it is not a finished artifact, produce it again")
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise CorruptArtifact(
            f"{path} is malformed ({error.errors()[0]['msg']}): produce the artifact again"
        ) from error


@contextlib.contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that is renamed onto it when the block ends well, and removed when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{os.getpid()}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            shutil.rmtree(target)
        temporary.replace(target)
        _fsync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole: temporary name, flush, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
