"""What a run cost, and what the registry is told of it."""

import pytest

from components.shared.contracts.records import Tier
from components.shared.contracts.stage import ArtifactKind
from components.shared.performance.model_registry import ModelRegistry
from components.shared.selection.prices import load_prices
from components.shared.storage.artifacts import seal
from pipelines.engines.run_folder import TaskStatus
from pipelines.report.costs import behind, record_costs, spent

MACHINE = {"instance": "ml.g6.12xlarge", "instance_count": 2, "machine_seconds": 3600.0, "billed_seconds": 900.0}


def hourly():
    return 2 * load_prices().of("ml.g6.12xlarge").usd_per_hour


def test_a_job_costs_its_billed_seconds_and_one_without_a_machine_is_named(make_night):
    folder = make_night()
    assert spent(folder, load_prices()).usd == 0.0
    folder.change(engine="sagemaker")
    folder.change_task("srl", **MACHINE)
    folder.change_task("data_validation", status=TaskStatus.CACHED)
    found = spent(folder, load_prices())
    assert (found.usd, found.on_demand_usd) == (pytest.approx(hourly() / 4), pytest.approx(hourly()))
    assert found.unknown == ("evaluation", "register_bronze", "distill_silver")
    folder.change_task("evaluation", **MACHINE | {"instance": "ml.unheard.of"})
    assert "evaluation" in spent(folder, load_prices()).unknown


def test_a_version_is_charged_with_what_it_waited_for_and_nothing_else(make_night):
    tasks = make_night().state.tasks
    assert behind(tasks, "register_bronze") == {"register_bronze", "evaluation", "srl", "data_validation"}


@pytest.mark.slow
def test_the_registry_is_told_once(make_night, tmp_path):
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "config.json").write_text("{}")
    digest = seal(policy, ArtifactKind.POLICY).digest
    registry = ModelRegistry(f"sqlite:///{tmp_path / 'mlflow.db'}")
    version = registry.register("npc_dialogue-bronze", policy, {}, "card")
    folder = make_night(registered=digest)
    folder.change(engine="sagemaker")
    for task in behind(folder.state.tasks, "register_bronze"):
        folder.change_task(task, **MACHINE)
    record_costs(folder, registry)
    folder.change_task("srl", billed_seconds=3600.0)
    record_costs(folder, registry)
    (found,) = registry.versions("npc_dialogue", Tier.BRONZE)
    assert found.number == version.number
    assert float(found.tags["cost_usd"]) == pytest.approx(hourly(), abs=1e-3)
    assert found.tags["cost_prices_of"] == f"{load_prices().as_of}"
