"""The curves of training jobs: SageMaker finds in a job's lines what a stage logs, by the compiled job's definitions."""

import json
import re

import pytest

from components.shared.contracts.environment import ECHO_METRICS
from components.shared.monitoring.catalogue import TRAINING
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.storage.paths import PROJECT

LOGGING = ("srl", "rlvr", "distillation", "shared/training")


def definitions():
    """MetricDefinitions of every training job of the committed SageMaker definitions."""
    for file in sorted((PROJECT / "tests" / "pipelines" / "golden" / "sagemaker").glob("*.json")):
        text = file.read_text(encoding="utf-8")
        steps = json.loads(text).get("Steps", [])
        while steps:
            step = steps.pop()
            arguments = step.get("Arguments", {})
            steps += arguments.get("IfSteps", []) + arguments.get("ElseSteps", [])
            if step["Type"] == "Training":
                yield {item["Name"]: item["Regex"] for item in arguments["AlgorithmSpecification"]["MetricDefinitions"]}


def test_a_line_of_a_stage_becomes_the_catalogues_curves(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(ECHO_METRICS, "1")
    values = {name: -1.5e-07 if name == "kl" else 0.25 for name in TRAINING}
    PerformanceTracker(tmp_path).log(7, **values)
    text = capsys.readouterr().out
    found = list(definitions())
    assert found
    for job in found:
        assert {name: float(re.search(regex, text)[1]) for name, regex in job.items()} == values


@pytest.mark.parametrize("name", TRAINING)
def test_a_curve_is_logged_by_a_stage(name):
    logged = re.compile(rf'(\(|, |\{{|: )("{name}"|{name}=)')
    sources = [f for folder in LOGGING for f in (PROJECT / "components" / folder).rglob("*.py")]
    assert any(logged.search(f.read_text(encoding="utf-8")) for f in sources)
