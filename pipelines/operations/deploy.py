"""Deploy an environment: compile every pipeline, let Terraform say what would change, and apply exactly that.

Terraform is the one owner of what is deployed; nothing here calls AWS but to ask whose the credentials are. A new account is
deployed twice, since a definition names roles, key and network that only the first pass makes (`without_pipelines`).
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.contracts.records import Tier
from components.shared.storage.artifacts import write_text
from components.shared.storage.paths import PROJECT, configs_root
from pipelines.compilers.collection import collection_files
from pipelines.compilers.monitoring import monitoring_files
from pipelines.compilers.outputs import compiled_files
from pipelines.compilers.selection import selection_files
from pipelines.configuration import load_settings
from pipelines.definitions.catalogue import DAGS
from pipelines.engines.sagemaker import real_account
from pipelines.operations.month import Month, plan_calendar
from pipelines.operations.plan import make_plan
from pipelines.operations.preflight import check_identity

CONFIGURATION = PROJECT / "infrastructure" / "terraform"
NO_CHANGE, CHANGES = 0, 2
"""What `terraform plan -detailed-exitcode` ends with."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One environment's configuration and where its files lie."""

    environment: str
    build: Path
    """Folder for the compiled definitions, the dashboards and the plan."""
    configuration: Path
    without_pipelines: bool = False

    @property
    def definitions(self) -> Path:
        """Each environment's own: a definition of one is not to be deployed in the other."""
        return self.build / self.environment / ("no-pipelines" if self.without_pipelines else "sagemaker")

    @property
    def catalogue(self) -> Path:
        """Dashboards and alarms, which are the same in every environment."""
        return self.build / "monitoring"

    @property
    def saved_plan(self) -> Path:
        return self.build / self.environment / "terraform.tfplan"

    def check(self) -> str:
        """Find out, before anything is written, whether it can be deployed; returns Terraform's path.

        Raises UsageError for the placeholder account, credentials of another account, or no Terraform on the PATH.
        """
        account = real_account(load_settings(self.environment))
        folder = self.configuration / "environments" / self.environment
        if not folder.is_dir():
            raise UsageError(f"{folder} is not there: copy another environment's folder and fill it in")
        terraform = shutil.which("terraform")
        if terraform is None:
            raise UsageError("no terraform on the PATH: install Terraform 1.11 or later")
        check_identity(account, self.environment)
        return terraform

    def faults(self, runs: Path) -> list[str]:
        """What `srl-rlvr plan` refuses of what the nights would start: a line a reason, with the command that says more."""
        if self.without_pipelines:
            return []
        found: dict[str, str] = {}
        whole, plans = make_plan("nightly", self.environment, Tier.BRONZE, runs), plan_calendar(self.environment, runs)
        for (dag, tier), plan in {("nightly", Tier.BRONZE): whole, **plans}.items():
            command = f"srl-rlvr plan {dag}{'' if dag == 'nightly' else f' --tier {tier}'} --env {self.environment}"
            for fault in plan.faults:
                found.setdefault(fault, command)
        nights = load_settings(self.environment).environment.nights
        for fault in Month(environment=self.environment, nights=nights, plans=plans).refusals if nights else ():
            found[fault] = f"srl-rlvr plan nightly --env {self.environment}"
        return [f"{fault}: see `{command}`" for fault, command in found.items()]

    def compile(self) -> list[str]:
        """Write every pipeline, dashboards and alarms, and remove what an earlier compilation left.

        Returns the names of the pipelines' files.
        """
        files: dict[str, str] = {}
        for dag in () if self.without_pipelines else DAGS:
            for tier in (Tier.BRONZE,) if dag == "nightly" else Tier:
                files |= compiled_files(dag, tier, self.environment, "sagemaker")
        if not self.without_pipelines:
            files |= selection_files(self.environment) | collection_files(self.environment)
        shutil.rmtree(self.definitions, ignore_errors=True)
        self.definitions.mkdir(parents=True)
        for name, text in files.items():
            write_text(self.definitions / name, text)
        shutil.rmtree(self.catalogue, ignore_errors=True)
        for name, text in monitoring_files().items():
            write_text(self.catalogue / name, text)
        return sorted(files)

    def plan(self, terraform: str, say: Callable[[str], None]) -> bool:
        """Show what would change, and keep the plan; says whether anything would.

        Raises UsageError for pipelines in an account that nothing was deployed to: what their definitions name is not
        there yet, so that the plan could not judge them, and an apply would stop half-way.
        """
        values = f"environments/{self.environment}"
        self._run(terraform, "init", "-input=false", "-reconfigure", f"-backend-config={values}/backend.hcl")
        if not self.without_pipelines and json.loads(self._run(terraform, "output", "-json")) == {}:
            raise UsageError(
                f"nothing is deployed to {self.environment} yet: begin with `srl-rlvr deploy --env {self.environment} "
                "--without-pipelines`"
            )
        code, out, faults = self._terraform(
            terraform,
            "plan",
            "-input=false",
            "-no-color",
            "-detailed-exitcode",
            f"-out={self.saved_plan.resolve()}",
            f"-var-file={values}/terraform.tfvars",
            f"-var=configs_dir={configs_root().resolve()}",
            f"-var=definitions_dir={self.definitions.resolve()}",
            f"-var=state_machines_dir={PROJECT / 'step_functions'}",
            f"-var=catalogue_dir={self.catalogue.resolve()}",
        )
        if code not in (NO_CHANGE, CHANGES):
            raise PipelineError(f"terraform plan: {reason(faults or out)}")
        say(out.rstrip())
        return code == CHANGES

    def apply(self, terraform: str, say: Callable[[str], None]) -> None:
        """Apply the plan that was shown, and nothing else: Terraform refuses it where the account changed meanwhile."""
        say(self._run(terraform, "apply", "-input=false", "-no-color", str(self.saved_plan.resolve())).rstrip())

    def settings(self, terraform: str) -> str:
        """What configs/environments/ENV.yaml has to take over from the first pass."""
        return self._run(terraform, "output", "-raw", "sagemaker_settings")

    def _run(self, terraform: str, *arguments: str) -> str:
        code, out, faults = self._terraform(terraform, *arguments)
        if code != 0:
            raise PipelineError(f"terraform {arguments[0]}: {reason(faults or out)}")
        return out

    def _terraform(self, terraform: str, *arguments: str) -> tuple[int, str, str]:
        command = [terraform, f"-chdir={self.configuration}", *arguments]
        environment = os.environ | {"TF_IN_AUTOMATION": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr


def reason(out: str) -> str:
    """Terraform's errors, boxed and broken into lines, as one line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", out).replace("╷", "\n").replace("╵", "\n")
    boxes = [" ".join(re.sub(r"^│ ?", "", box, flags=re.M).split()) for box in text.split("Error: ")[1:]]
    found = [re.split(r"\s(?=Warning: )", box)[0] for box in boxes] or [" ".join(text.split())[-500:]]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{found[0]}{more}: put it right and deploy again"
