"""`srl-rlvr doctor`: is everything here that a run on this machine needs?"""

import importlib.metadata
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from components.shared.contracts.errors import PipelineError
from components.shared.contracts.stage import ArtifactKind
from components.shared.performance.mlflow_store import database
from components.shared.storage.artifacts import verify
from components.shared.storage.paths import configs_root
from pipelines.configuration import load_settings
from pipelines.launch import tracking_uri

DISK_GIB, MEMORY_GIB = 2, 4
"""What a run needs on this machine, at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One check."""

    check: str
    sound: bool
    detail: str
    """What was found, and the remedy where it is not sound."""


def examine(environment: str, runs: Path) -> Iterator[Finding]:
    """Every check, in the order in which a run would need it."""
    version = ".".join(map(str, sys.version_info[:3]))
    supported = (3, 11) <= sys.version_info[:2] <= (3, 12)
    yield Finding(check="python", sound=supported, detail=version if supported else f"{version}: use 3.11 or 3.12")
    yield packages()
    yield disk(runs)
    yield memory()
    yield writable(runs)
    yield from policies(environment)
    yield store(environment, runs)


def packages() -> Finding:
    """The packages that `make run` installs, by the project's own metadata."""
    missing = []
    for requirement in importlib.metadata.requires("srl-rlvr") or ():
        extra = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        if extra is None or extra[1] in ("data", "train", "tracking"):
            name = re.split(r"[^\w.-]", requirement)[0]
            try:
                importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                missing.append(name)
    detail = f"missing: {', '.join(missing)}: run `make setup`" if missing else "all installed"
    return Finding(check="packages", sound=not missing, detail=detail)


def disk(runs: Path) -> Finding:
    free = shutil.disk_usage(existing(runs)).free / 2**30
    remedy = "" if free >= DISK_GIB else f": free {DISK_GIB} GiB, for example with `make clean`"
    return Finding(check="disk", sound=free >= DISK_GIB, detail=f"{free:.1f} GiB free{remedy}")


def memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    remedy = "" if total >= MEMORY_GIB else f": a run may need {MEMORY_GIB} GiB"
    return Finding(check="memory", sound=total >= MEMORY_GIB, detail=f"{total:.1f} GiB{remedy}")


def writable(runs: Path) -> Finding:
    folder = existing(runs)
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Finding(check="runs", sound=True, detail=f"{runs} can be written")
    except OSError as error:
        return Finding(check="runs", sound=False, detail=f"{folder}: {error.strerror}: point SRL_RLVR_RUNS elsewhere")


def policies(environment: str) -> Iterator[Finding]:
    """The base policy of each tier that lies on this machine."""
    for tier, uri in load_settings(environment).environment.policies.items():
        if "://" in uri:
            continue
        try:
            digest = verify(configs_root() / uri, ArtifactKind.POLICY).digest
            yield Finding(check=f"{tier} base", sound=True, detail=f"{uri} {digest[:12]}")
        except PipelineError as error:
            yield Finding(check=f"{tier} base", sound=False, detail=str(error))


def store(environment: str, runs: Path) -> Finding:
    uri = tracking_uri(load_settings(environment).environment, runs)
    file = database(uri)
    if file is None:
        return Finding(check="mlflow", sound=True, detail=f"{uri} (a server: not called)")
    return Finding(check="mlflow", sound=True, detail=str(file) + ("" if file.exists() else " (made by the first run)"))


def existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
