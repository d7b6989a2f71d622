"""Train SRL, then RLVR, on one box or under torchrun; started again, it goes on where it was.

    python scripts/train_srl_rlvr.py --dataset DIR --policy DIR --out DIR [--config FILE] [--strategy fsdp]
    torchrun --nproc-per-node 8 scripts/train_srl_rlvr.py ... --strategy fsdp

FILE holds the sections `srl` and `rlvr`. OUT gets a folder a stage, each with `policy` and `report`, and `checkpoints`. A
stage that is finished with the same configuration and inputs is not run again; one that was stopped takes up its newest
checkpoint.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import JsonValue

from components.catalogue import spec_of
from components.entrypoints.execution import lineage
from components.entrypoints.main import main as run_stage
from components.shared.contracts.configuration import parse_config
from components.shared.contracts.environment import CHECKPOINTS, STRATEGY, Strategy
from components.shared.contracts.errors import PipelineError, program, unknown
from components.shared.storage.artifacts import read_manifest, verify, write_text
from components.shared.storage.paths import configs_root
from components.shared.storage.yaml_files import read_mapping
from components.shared.training.distributed.launch import main_process
from components.shared.training.distributed.world import joined

STAGES = ("srl", "rlvr")


def finished(stage: str, section: Mapping[str, JsonValue], inputs: Mapping[str, Path], out: Path) -> bool:
    """Whether the stage's outputs are whole and come from this configuration and these inputs."""
    spec = spec_of(stage)
    config = parse_config(spec.config, section, stage)
    wanted = lineage(spec, config, {name: read_manifest(path) for name, path in inputs.items()})
    try:
        found = [verify(out / name, kind).metadata for name, kind in spec.all_outputs.items()]
    except PipelineError:
        return False
    return all(metadata | wanted == metadata for metadata in found)


def arguments(stage: str, section: Mapping[str, JsonValue], inputs: Mapping[str, Path], out: Path) -> list[str]:
    """The command line of one stage; its configuration is left beside its outputs."""
    config = out / "config.yaml"
    if main_process():
        write_text(config, yaml.safe_dump(dict(section)))
    given = [f"--input={name}={path}" for name, path in inputs.items()]
    wanted = [f"--output={name}={out / name}" for name in spec_of(stage).all_outputs]
    return [stage, f"--config={config}", *given, *wanted]


def train(options: argparse.Namespace) -> int:
    """Run what is not finished; returns the exit code of the first stage that fails."""
    sections = read_mapping(options.config) if options.config.is_file() else {}
    for name in sections.keys() - set(STAGES):
        raise unknown("section", name, STAGES)
    policy = options.policy
    with joined() as world:
        for stage in STAGES:
            out, section = options.out / stage, sections.get(stage) or {}
            inputs = {"dataset": options.dataset, "policy": policy}
            policy = out / "policy"
            if world.smallest(int(finished(stage, section, inputs, out))):
                print(f"{stage}: finished before", file=sys.stderr)
                continue
            command = arguments(stage, section, inputs, out)
            world.wait()
            code = run_stage(command)
            if world.largest(code):
                return code or 1
    return 0


@program
def main() -> int:
    parser = argparse.ArgumentParser(description="Train SRL, then RLVR.")
    parser.add_argument("--dataset", type=Path, required=True, help="data_validation's output")
    parser.add_argument("--policy", type=Path, required=True, help="the policy to start from")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=configs_root() / "srl_rlvr_training.yaml")
    parser.add_argument("--strategy", type=Strategy, choices=list(Strategy), default=None)
    options = parser.parse_args()
    os.environ.setdefault(CHECKPOINTS, str(options.out / "checkpoints"))
    if options.strategy is not None:
        os.environ[STRATEGY] = options.strategy
    return train(options)


if __name__ == "__main__":
    sys.exit(main())
