"""Finished stages, by what they were made from.

    STORE/STAGE/KEY/parts.json     what the key is made of, by name, so that a miss can be explained
    STORE/STAGE/KEY/OUTPUT/        each output, sealed by its manifest
    STORE/STAGE/KEY/measured.json  time and memory that it took
    STORE/STAGE/KEY/checkpoints/   training that was interrupted goes on from here; removed once the outputs are there

A stage writes straight into its entry, where each output appears whole or not at all; the entry counts when every output
is there and matches its manifest. Nothing else has to be written, so a kill at any time loses nothing that was finished.
"""

import contextlib
import fcntl
import functools
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from components.shared.collaboration.world import folder_digest
from components.shared.contracts.errors import CorruptArtifact
from components.shared.contracts.records import content_id
from components.shared.contracts.stage import StageConfig, StageSpec
from components.shared.storage.artifacts import file_digest, read_manifest, verify, write_text
from components.shared.storage.paths import PROJECT, configs_root

Parts = dict[str, str]
"""What a key is made of, by name."""
LIBRARIES = {"data": ("data", "tracking"), "training": ("data", "train"), "serving": ("train",)}
"""The project's extras that an image installs, by the image's name."""
NAMED = 4
"""Differences that an explanation names, at most."""
PARTS, MEASURED, LOCK, CHECKPOINTS = "parts.json", "measured.json", "lock", "checkpoints"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One key of one stage, held exclusively."""

    folder: Path
    spec: StageSpec
    lock: int
    """File descriptor of the lock; a child that inherits it keeps the entry held should this process be killed."""

    def output(self, name: str) -> Path:
        return self.folder / name

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    def fault(self) -> str | None:
        """Why the entry cannot be used; none where every output is there and matches its manifest."""
        missing = [name for name in self.spec.all_outputs if not self.output(name).exists()]
        if missing:
            return "not finished" if any(self.output(name).exists() for name in self.spec.all_outputs) else "not there"
        try:
            for name, kind in self.spec.all_outputs.items():
                verify(self.output(name), kind)
        except CorruptArtifact as error:
            return f"corrupted: {error}"
        return None

    @property
    def measured(self) -> dict[str, float]:
        """Time and memory that the stage took when it ran; empty where a kill came between."""
        path = self.folder / MEASURED
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def measure(self, values: Mapping[str, float]) -> None:
        write_text(self.folder / MEASURED, json.dumps(dict(values)) + "\n")

    def clear(self, parts: Parts) -> None:
        """Make room for a new run of the stage, which may go on from the last one's checkpoints."""
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink() and path != self.checkpoints:
                shutil.rmtree(path)
        (self.folder / MEASURED).unlink(missing_ok=True)
        write_text(self.folder / PARTS, json.dumps(parts, indent=1, sort_keys=True) + "\n")


class StageStore:
    """The store below one folder; any number of processes may share it."""

    def __init__(self, root: Path):
        self.root = root

    @contextlib.contextmanager
    def hold(self, spec: StageSpec, key: str, waiting: "contextlib.AbstractContextManager[None]") -> Iterator[Entry]:
        """The entry of a key, one holder at a time; `waiting` is entered while another process holds it."""
        folder = self.root / spec.name / key
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with waiting:
                    fcntl.flock(lock, fcntl.LOCK_EX)
            yield Entry(folder=folder, spec=spec, lock=lock.fileno())

    def explain(self, spec: StageSpec, parts: Parts) -> str:
        """Which parts of a key differ from the nearest entry that the store has."""
        nearest: list[str] | None = None
        for path in sorted((self.root / spec.name).glob(f"*/{PARTS}"), key=lambda p: -p.stat().st_mtime):
            found = differences(json.loads(path.read_text(encoding="utf-8")), parts)
            if found and (nearest is None or len(found) < len(nearest)):
                nearest = found
        if not nearest:
            return "the first run of this stage"
        more = f"; and {len(nearest) - NAMED} more" if len(nearest) > NAMED else ""
        return "; ".join(nearest[:NAMED]) + more


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """The parts that differ, one phrase each; digests are shortened."""

    def short(value: str | None) -> str:
        return "none" if value is None else value[:12] if re.fullmatch(r"[0-9a-f]{64}", value) else value

    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return [f"{name} {short(old.get(name))} -> {short(new.get(name))}" for name in names]


def key_parts(spec: StageSpec, config: StageConfig, inputs: Mapping[str, Path]) -> Parts:
    """Everything that a stage's outputs follow from. Raises PipelineError for an input that is not an artifact."""
    values = config.model_dump(mode="json")
    parts = {
        "stage": spec.name,
        "python": ".".join(platform.python_version_tuple()[:2]),
        **code_digests(spec.config.__module__),
    }
    parts |= {f"config.{name}": json.dumps(value) for name, value in flat(values)}
    parts |= {f"input.{name}": read_manifest(inputs[name]).digest for name in spec.inputs}
    parts |= {f"library.{name}": version for name, version in library_versions(spec.image)}
    parts |= {"model types": digest_of(configs_root() / "model_types")}
    if "world" in values:
        parts |= {"world": digest_of(configs_root() / "worlds" / str(values["world"]))}
    return parts


def key_of(parts: Parts) -> str:
    return content_id(parts)


def flat(values: Mapping[str, JsonValue], prefix: str = "") -> Iterator[tuple[str, JsonValue]]:
    """Nested values by dotted name."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def digest_of(folder: Path) -> str:
    return folder_digest(folder) if folder.is_dir() else "none"


def code_digests(module: str) -> Parts:
    """SHA-256 of each file that a stage runs: the folder of its spec's module, what stages share, and what starts them."""
    components = PROJECT / "components"
    own = Path(str(sys.modules[module].__file__)).parent
    found = {f"{own.name}/{path.relative_to(own).as_posix()}": path for path in own.rglob("*.py")}
    for root in (components / "shared", components / "entrypoints"):
        found |= {path.relative_to(components).as_posix(): path for path in root.rglob("*.py")}
    found |= {name: components / name for name in ("__main__.py", "catalogue.py")}
    return {f"code {name}": file_digest(path) for name, path in sorted(found.items())}


@functools.cache
def library_versions(image: str) -> tuple[tuple[str, str], ...]:
    """The libraries that an image installs, by the project's extras, with the versions that are here."""
    found = {}
    for requirement in importlib.metadata.requires("srl-rlvr") or ():
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        if name and extra and extra[1] in LIBRARIES.get(image, ()):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name[0]] = importlib.metadata.version(name[0])
    return tuple(sorted(found.items()))


def link(target: Path, at: Path) -> None:
    """A relative symbolic link, put in place whole."""
    at.parent.mkdir(parents=True, exist_ok=True)
    temporary = at.with_name(f".{at.name}.partial")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, at.parent))
    temporary.replace(at)
