"""Terraform on this machine, offline: the configuration applied through a provider that knows AWS's schema.

Nothing here is validated by the AWS provider or by AWS: configurations are *schema-checked*, and the policies are those
that Terraform renders.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
TOOLS = PROJECT / "infrastructure" / "tools"
sys.path += [str(TOOLS), str(Path(__file__).parent)]

from deployment import CONFIGURATION, Deployment, Stack, Terraform, take_over  # noqa: E402


def need(tool: Path | str, remedy: str) -> str:
    """The tool's path. Without it a test is skipped, but fails in CI, which has installed it."""
    found = shutil.which(tool)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {tool}: {remedy}")
    return str(found)


@pytest.fixture(scope="session")
def terraform_binary() -> str:
    return need("terraform", "put Terraform 1.11 or later on the PATH")


@pytest.fixture(scope="session")
def tools() -> Path:
    """The folder of the tools' executables."""
    return Path(
        need(PROJECT / ".venv-infrastructure" / "bin" / "checkov", "run infrastructure/tools/install.sh")
    ).parent


@pytest.fixture(scope="session")
def provider(tools: Path) -> Iterator[dict[str, Any]]:
    """A running provider: the environment that leads Terraform to it, and the version whose schema it serves."""
    server = subprocess.Popen(
        [tools / "python", TOOLS / "offline.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield json.loads(server.stdout.readline())
    finally:
        server.stdin.close()
        server.wait(timeout=30)


@pytest.fixture(scope="session")
def terraform(
    terraform_binary: str, provider: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Terraform:
    folder = tmp_path_factory.mktemp("infrastructure") / "terraform"
    shutil.copytree(CONFIGURATION, folder, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "*.tfplan"))
    (folder / "backend_override.tf").write_text('terraform {\n  backend "local" {}\n}\n')
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    terraform = Terraform(binary=terraform_binary, folder=folder, environment=inherited | provider["environment"])
    terraform("init", "-input=false")
    return terraform


@pytest.fixture(scope="session")
def stacks(terraform: Terraform, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stack]:
    from pipelines.compilers.monitoring import monitoring_files

    found = {}
    for environment in ("dev", "prod"):
        folder = tmp_path_factory.mktemp(environment)
        shutil.copytree(PROJECT / "configs", folder / "configs")
        (folder / "sagemaker").mkdir()
        for name, text in monitoring_files().items():
            (folder / "monitoring" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "monitoring" / name).write_text(text)
        found[environment] = Stack(terraform=terraform, environment=environment, folder=folder)
    return found


@pytest.fixture(scope="session")
def dev(stacks: Mapping[str, Stack]) -> Deployment:
    """A new account, before its first definition is compiled."""
    return stacks["dev"].apply()


@pytest.fixture(scope="session")
def prod(stacks: Mapping[str, Stack]) -> Deployment:
    """An account as its engineer sets it up: apply, take its settings over, compile, apply again."""
    stack = stacks["prod"]
    take_over(stack.apply().outputs["sagemaker_settings"], stack.folder / "configs" / "environments" / "prod.yaml")
    compile_all("prod", stack.folder)
    return stack.apply()


def compile_all(environment: str, folder: Path) -> None:
    """Every pipeline, with the configuration in `folder`."""
    from components.shared.contracts.records import Tier
    from pipelines.compilers.collection import collection_files
    from pipelines.compilers.outputs import compiled_files
    from pipelines.compilers.selection import selection_files

    pipelines = [(dag, tier) for dag in ("post_training", "distillation") for tier in Tier]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRL_RLVR_CONFIGS", str(folder / "configs"))
        for dag, tier in [*pipelines, ("nightly", Tier.BRONZE)]:
            for name, text in compiled_files(dag, tier, environment, "sagemaker").items():
                (folder / "sagemaker" / name).write_text(text)
        for name, text in (selection_files(environment) | collection_files(environment)).items():
            (folder / "sagemaker" / name).write_text(text)
