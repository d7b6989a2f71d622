"""What an apply created, and what its policies allow."""

import fnmatch
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[2]
CONFIGURATION = PROJECT / "infrastructure" / "terraform"
TOY = Path(__file__).parent / "toy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Terraform:
    """A working copy of the configuration, whose states lie in files."""

    binary: str
    folder: Path
    environment: Mapping[str, str]

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [self.binary, f"-chdir={self.folder}", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)

    def __call__(self, *arguments: str | Path) -> str:
        """Standard output of a command that must succeed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """One environment: its variables and its state."""

    terraform: Terraform
    environment: str
    folder: Path
    """Holds the configs/, definitions, dashboards and alarms that it is deployed with, and its state."""

    def arguments(self, **folders: Path) -> list[str]:
        """What every command on the environment takes; `folders` stand in for its own."""
        own = {
            "configs_dir": self.folder / "configs",
            "definitions_dir": self.folder / "sagemaker",
            "state_machines_dir": TOY / "step_functions",
            "catalogue_dir": self.folder / "monitoring",
        }
        values = CONFIGURATION / "environments" / self.environment / "terraform.tfvars"
        return [f"-var-file={values}", *(f"-var={name}={path}" for name, path in (own | folders).items())]

    @property
    def state(self) -> Path:
        return self.folder / "terraform.tfstate"

    def apply(self) -> "Deployment":
        self.terraform("apply", "-input=false", "-auto-approve", f"-state={self.state}", *self.arguments())
        shown = json.loads(self.terraform("show", "-json", self.state))["values"]
        resources: dict[str, list[Any]] = {}
        for module in [shown["root_module"], *shown["root_module"]["child_modules"]]:
            for resource in module.get("resources", []):
                resources.setdefault(resource["type"], []).append(resource["values"])
        outputs = {name: output["value"] for name, output in shown["outputs"].items()}
        return Deployment(environment=self.environment, resources=resources, outputs=outputs)

    def plan(self, *options: str, **folders: Path) -> subprocess.CompletedProcess[str]:
        """A plan against the state, which may fail."""
        return self.terraform.run(
            "plan", "-input=false", "-no-color", f"-state={self.state}", *options, *self.arguments(**folders)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """What an apply created, by type of resource."""

    environment: str
    resources: Mapping[str, list[Mapping[str, Any]]]
    outputs: Mapping[str, Any]

    def all(self, kind: str) -> list[Mapping[str, Any]]:
        return self.resources.get(kind, [])

    def one(self, kind: str, name: str) -> Mapping[str, Any]:
        """The resource of a type whose name ends so."""
        (found,) = (resource for resource in self.all(kind) if resource["name"].endswith(name))
        return found

    @property
    def roles(self) -> dict[str, "Role"]:
        """Every role by its name after the environment's, with all its policies."""
        prefix = f"srl-rlvr-{self.environment}-"
        found = {}
        for role in self.all("aws_iam_role"):
            policies = [p["policy"] for p in self.all("aws_iam_role_policy") if p["role"] == role["name"]]
            statements = [statement for policy in policies for statement in json.loads(policy)["Statement"]]
            trust = json.loads(role["assume_role_policy"])["Statement"]
            found[role["name"].removeprefix(prefix)] = Role(arn=role["arn"], trust=trust, statements=statements)
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """A role and what its policies allow."""

    arn: str
    trust: list[Mapping[str, Any]]
    statements: list[Mapping[str, Any]]

    @property
    def actions(self) -> set[str]:
        return {action for action, _ in self.grants()}

    def grants(self) -> Iterator[tuple[str, list[str]]]:
        """(action, resources) of every statement."""
        for statement in self.statements:
            for action in listed(statement["Action"]):
                yield action, listed(statement["Resource"])

    def allows(self, action: str, resource: str, context: Mapping[str, str] | None = None) -> bool:
        """Whether a call is allowed, given its condition keys."""
        return any(
            statement["Effect"] == "Allow"
            and action in listed(statement["Action"])
            and any(fnmatch.fnmatchcase(resource, pattern) for pattern in listed(statement["Resource"]))
            and holds(statement.get("Condition", {}), context or {})
            for statement in self.statements
        )


def holds(condition: Mapping[str, Mapping[str, Any]], context: Mapping[str, str]) -> bool:
    """Whether every test of a policy's condition holds; a key that the call lacks fails it, as in IAM."""
    assert condition.keys() <= {"StringEquals", "StringLike", "Bool"}, condition
    return all(
        any(fnmatch.fnmatchcase(context.get(key, ""), pattern) for pattern in listed(values))
        for tests in condition.values()
        for key, values in tests.items()
    )


def take_over(settings: str, file: Path) -> None:
    """Put what the first pass made into an environment's file."""
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | yaml.safe_load(settings)))


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def leaves(steps: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The jobs of a pipeline definition, those in the branches of conditions included."""
    for step in steps:
        if step["Type"] == "Condition":
            yield from leaves(step["Arguments"]["IfSteps"] + step["Arguments"]["ElseSteps"])
        else:
            yield step
