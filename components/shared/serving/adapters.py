"""Adapters are immutable: the name and the folder carry the hash of the content, and a change is another adapter.

A reload under the same name or path gives wrong answers where the server caches prefixes by name, so nothing is ever
replaced in place. Everything is checked against the manifest before a byte is sent.
"""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from components.shared.contracts.errors import CorruptArtifact, UsageError
from components.shared.contracts.records import content_id
from components.shared.contracts.stage import ArtifactKind
from components.shared.storage.artifacts import MANIFEST, Manifest, read_manifest, verify, whole

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
TOKENIZER = "tokenizer.json"
MODEL_TYPE = re.compile(r"[a-z][a-z0-9_]{0,40}")
PLAIN = {".safetensors", ".json", ".jsonl", ".txt", ".md", ".jinja", ".model"}
"""Suffixes of files that no loader executes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedBase:
    """What a server was started on: it may be sent adapters that were trained on exactly this."""

    name: str
    """The base model's id on the server."""
    digest: str
    """Digest of the base policy's manifest."""
    tokenizer: str
    """Digest of which tokens are which words, by its tokenizer.json."""
    max_rank: int
    """The largest LoRA rank that the server takes."""

    @classmethod
    def of(cls, folder: Path, name: str, max_rank: int) -> "ServedBase":
        """The base in a sealed policy folder. Raises CorruptArtifact where it names no tokenizer."""
        manifest = read_manifest(folder)
        return cls(name=name, digest=manifest.digest, tokenizer=_tokenizer(manifest, folder), max_rank=max_rank)


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """A checked policy in the store: a LoRA adapter, or a whole policy where the back end takes one."""

    name: str
    """MODEL-TYPE-SHA12."""
    folder: Path
    digest: str
    """Digest of its manifest."""
    rank: int | None
    """LoRA rank; none for a whole policy."""


class AdapterStore:
    """Checked, read-only copies of policies, one folder each, named by content. Servers read from here."""

    def __init__(self, root: Path):
        # A server is another process: it is told whole paths.
        self.root = root.resolve()

    def add(self, folder: Path, model_type: str, base: ServedBase) -> Adapter:
        """Check a sealed policy for a server and copy it in, once.

        Raises CorruptArtifact where it does not match its manifest or itself, UsageError where it is not for this base.
        """
        adapter = check(folder, model_type, base)
        target = self.root / adapter.name
        if not target.exists():
            with whole(target) as copy:
                shutil.copytree(folder, copy, dirs_exist_ok=True)
                for path in copy.rglob("*"):
                    path.chmod(0o555 if path.is_dir() else 0o444)
        return self.get(adapter.name, model_type, base)

    def get(self, name: str, model_type: str, base: ServedBase) -> Adapter:
        """An adapter that was added, checked again: the store's disk is not above suspicion."""
        adapter = check(self.root / name, model_type, base)
        if adapter.name != name:
            raise CorruptArtifact(f"{self.root / name} holds {adapter.name}: remove it and add the policy again")
        return adapter

    def remove(self, name: str) -> None:
        """Delete an adapter's copy."""
        folder = self.root / name
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(folder)


def check(folder: Path, model_type: str, base: ServedBase) -> Adapter:
    """The policy in `folder` as an adapter for `base`, every sum and every claim checked."""
    if not MODEL_TYPE.fullmatch(model_type):
        raise UsageError(f"model type {model_type!r}: its name becomes a folder's, so use a-z, 0-9 and _")
    manifest = verify(folder, ArtifactKind.POLICY)
    for name in manifest.files:
        if Path(name).suffix not in PLAIN:
            raise UsageError(f"{folder / name}: only safetensors and plain text are served: remove it and seal again")
    said = manifest.metadata.get("model_type", model_type)
    if said != model_type:
        raise UsageError(f"{folder} is a policy for {said}, not for {model_type}: pass the right one")
    if _tokenizer(manifest, folder) != base.tokenizer:
        raise UsageError(f"{folder} has another {TOKENIZER} than {base.name}: its tokens would mean other words")
    rank = _lora_rank(folder, manifest, base) if WEIGHTS in manifest.files else None
    name = f"{model_type.replace('_', '-')}-{manifest.digest[:12]}"
    return Adapter(name=name, folder=folder, digest=manifest.digest, rank=rank)


def _tokenizer(manifest: Manifest, folder: Path) -> str:
    """Digest of which tokens are which words. The file also says how its last user padded, which differs."""
    if TOKENIZER not in manifest.files:
        raise CorruptArtifact(f"{folder / MANIFEST} covers no {TOKENIZER}: save the policy with its tokenizer")
    try:
        said = json.loads((folder / TOKENIZER).read_bytes())
        words = {key: value for key, value in said.items() if key not in ("padding", "truncation")}
    except (OSError, ValueError, AttributeError) as error:
        raise CorruptArtifact(f"{folder / TOKENIZER} is no tokenizer ({error}): save the policy again") from error
    return content_id(words)


def _lora_rank(folder: Path, manifest: Manifest, base: ServedBase) -> int:
    """The rank that configuration, manifest and tensors agree on."""
    trained_on = manifest.metadata.get("base")
    if trained_on != base.digest:
        raise UsageError(
            f"{folder} was trained on base {str(trained_on)[:12]}, {base.name} is {base.digest[:12]}: "
            "serve it on its own base, or train it again on this one"
        )
    try:
        rank = json.loads((folder / CONFIG).read_bytes())["r"]
    except (OSError, ValueError, KeyError) as error:
        raise CorruptArtifact(f"{folder / CONFIG} gives no rank r ({error}): save the adapter again") from error
    claims = {"adapter_config.json": rank, "manifest": manifest.metadata.get("rank"), **_tensor_ranks(folder / WEIGHTS)}
    odd = {where: claim for where, claim in claims.items() if claim != rank}
    if odd:
        where, claim = next(iter(odd.items()))
        raise CorruptArtifact(f"{folder}: {where} says rank {claim}, {CONFIG} says {rank}: save the adapter again")
    if rank > base.max_rank:
        raise UsageError(
            f"{folder} has rank {rank}, {base.name} takes {base.max_rank}: raise the server's maximum rank"
        )
    return rank


def _tensor_ranks(path: Path) -> dict[str, int]:
    """Ranks by tensor: rows of every A (r, in), columns of every B (out, r)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="numpy") as tensors:
            shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CorruptArtifact(f"{path} is no safetensors file ({error}): save the adapter again") from error
    ranks = {name: shape[0] for name, shape in shapes.items() if ".lora_A." in name}
    ranks |= {name: shape[1] for name, shape in shapes.items() if ".lora_B." in name}
    if not ranks:
        raise CorruptArtifact(f"{path} holds no LoRA tensors: save the adapter again")
    return ranks
