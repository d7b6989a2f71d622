"""A security scan of the configuration: nothing fails, and whatever is left out says why, where it is left out."""

import json
import re
import subprocess

import pytest
from deployment import CONFIGURATION

SKIP = re.compile(r"#\s*checkov:skip=(\w+)(?::(.*))?")


def test_every_skip_gives_its_reason():
    skips = [match for file in CONFIGURATION.rglob("*.tf") for match in SKIP.findall(file.read_text())]
    assert skips
    assert not [check for check, reason in skips if len(reason.split()) < 5]


@pytest.mark.slow
def test_the_scan_fails_nowhere(tools):
    values = CONFIGURATION / "environments" / "prod" / "terraform.tfvars"
    command = [
        tools / "checkov", "--directory", CONFIGURATION, "--framework", "terraform", "--var-file", values,
        "--skip-download", "--compact", "--quiet", "--output", "json",
    ]  # fmt: skip
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    assert [f"{check['check_id']} {check['resource']}" for check in report["results"]["failed_checks"]] == []
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 150, "the scan found the configuration"
