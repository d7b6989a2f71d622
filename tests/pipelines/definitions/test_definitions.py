"""The DAGs as compiled: their tasks, their gates, and the very bytes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Tier
from pipelines.compilers.kubeflow import compile_dag, to_yaml
from pipelines.configuration import load_settings
from pipelines.definitions.catalogue import DAGS
from pipelines.definitions.composer import descriptions

GOLDEN = Path(__file__).parents[1] / "golden"
TASKS = {
    "nightly": [
        "trajectory_generation",
        "verification",
        "data_validation",
        "srl",
        "rlvr",
        "evaluation",
        "register_bronze",
        "distill_silver",
        "register_silver",
        "distill_gold",
        "register_gold",
    ],
    "post_training": [
        "trajectory_generation",
        "verification",
        "data_validation",
        "srl",
        "rlvr",
        "evaluation",
        "register_gold",
    ],
    "distillation": ["data_validation", "distill_gold", "register_gold"],
}


@pytest.fixture(scope="module")
def compiled():
    settings = load_settings("local", Tier.GOLD)
    return {name: compile_dag(name, settings) for name in DAGS}


@pytest.mark.parametrize("name", DAGS)
def test_golden(compiled, name):
    """To accept a change: SRL_RLVR_GOLDEN=write pytest tests/pipelines/definitions, then read the difference."""
    path, text = GOLDEN / f"{name}.yaml", to_yaml(compiled[name])
    if os.environ.get("SRL_RLVR_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


def test_compiling_again_in_another_process_gives_the_same_bytes(compiled):
    program = (
        "from pipelines.compilers.kubeflow import *; from pipelines.configuration import load_settings;"
        "print(to_yaml(compile_dag('nightly', load_settings('local', 'gold'))), end='')"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    again = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert again.stdout == to_yaml(compiled["nightly"])


@pytest.mark.parametrize("name", DAGS)
def test_kfp_loads_it_and_compiles_it_to_the_same(compiled, name, tmp_path):
    from kfp import compiler, components

    (tmp_path / "dag.yaml").write_text(to_yaml(compiled[name]))
    loaded = components.load_component_from_file(str(tmp_path / "dag.yaml"))
    compiler.Compiler().compile(loaded, str(tmp_path / "again.yaml"))
    assert yaml.safe_load((tmp_path / "again.yaml").read_text()) == compiled[name].ir


@pytest.mark.parametrize("name", DAGS)
def test_tasks_in_the_order_in_which_data_flows(compiled, name):
    assert list(compiled[name].tasks) == TASKS[name]


def test_every_gate_guards_a_registration(compiled):
    """No registration is reached without a condition, and each further hop lies behind the gate before it."""
    ir = compiled["nightly"].ir

    def walk(dag, gates):
        for task in dag["tasks"].values():
            condition = task.get("triggerPolicy", {}).get("condition")
            component = ir["components"][task["componentRef"]["name"]]
            passed = [*gates, condition] if condition else gates
            if "dag" in component:
                yield from walk(component["dag"], passed)
            else:
                yield task["componentRef"]["name"].removeprefix("comp-"), passed

    gates = dict(walk(ir["root"]["dag"], []))
    assert [len(gates[name]) for name in ("evaluation", "register-bronze", "distill-silver")] == [0, 1, 1]
    assert [len(gates[name]) for name in ("register-silver", "distill-gold", "register-gold")] == [2, 2, 3]
    assert all(condition.endswith(">= 0.0") for passed in gates.values() for condition in passed)


@pytest.mark.parametrize("name", DAGS)
def test_every_parameter_is_typed_and_described(compiled, name):
    known = descriptions()
    for parameter, declared in compiled[name].parameters.items():
        assert declared["parameterType"] in ("STRING", "NUMBER_INTEGER", "NUMBER_DOUBLE")
        assert declared["description"] == known[parameter]


def test_registration_is_never_cached_by_a_cluster(compiled):
    for dag in (compiled["post_training"].ir["components"], compiled["nightly"].ir["components"]):
        tasks = {k: v for c in dag.values() for k, v in c.get("dag", {}).get("tasks", {}).items()}
        registrations = [task for name, task in tasks.items() if name.startswith("register-")]
        assert registrations
        assert not any(task["cachingOptions"].get("enableCache") for task in registrations)


@pytest.mark.parametrize(
    ("dag", "assignment", "answer"),
    [
        ("nightli", "seed=1", "unknown DAG 'nightli': did you mean 'nightly'"),
        ("nightly", "srll.steps=1", "unknown stage of nightly 'srll': did you mean 'srl'"),
        ("distillation", "rlvr.steps=1", "unknown stage of distillation 'rlvr'"),
        ("nightly", "sead=1", "unknown parameter of nightly 'sead': did you mean 'seed'"),
        ("nightly", "evaluation.seed=1", "write --set seed=1"),
        ("nightly", "register_gold.tier=bronze", "decided by the DAG"),
    ],
)
def test_a_request_that_fits_nothing_is_refused(dag, assignment, answer):
    with pytest.raises(UsageError, match=answer):
        compile_dag(dag, load_settings("local", assignments=[assignment]))


def test_compiling_imports_nothing_that_trains():
    program = (
        "import sys; from pipelines.configuration import load_settings;"
        "from pipelines.compilers.kubeflow import compile_dag; compile_dag('nightly', load_settings('local'));"
        "print(*[m for m in ('torch', 'transformers', 'trl', 'mlflow', 'sagemaker', 'boto3') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
