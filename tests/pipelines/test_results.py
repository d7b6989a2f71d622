"""The tables at the end of a run and the display while it is at work, rendered as text."""

import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from components.shared.contracts.records import Outcome, Tier
from components.shared.contracts.stage import Report
from pipelines.display import LiveView, clock, display
from pipelines.engines.run_folder import RunFolder, RunState, TaskState, TaskStatus
from pipelines.results import headline, results, show


def scores(mean):
    found = {"mean": mean, "low": mean - 0.02, "high": mean + 0.02, "n": 40}
    return {"greedy": found, "sampled": found, "correct": found}


@pytest.fixture
def folder(tmp_path):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    gate = {"margin": 0.25, "accepted": True, "criteria": {"gain": {"value": 0.3, "bound": 0.05, "margin": 0.25}}}
    policies = {"base": scores(0.2), "candidate": scores(0.8)}
    report = Report(stage="evaluation", summary="fine", details={"policies": policies, "gate": gate})
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "report.json").write_text(report.model_dump_json())
    done = {"seconds": 75.0, "cpu_seconds": 70.0, "peak_mib": 300.0, "outputs": {"report": "store"}}
    state = RunState(
        run_id="night",
        dag="nightly",
        environment="local",
        tier=Tier.BRONZE,
        tracking_uri="sqlite:///mlflow.db",
        started=start,
        finished=start + timedelta(minutes=5),
        outcome=Outcome.REGISTERED,
        tasks={
            "evaluation": TaskState(stage="evaluation", status=TaskStatus.DONE, **done),
            "register_gold": TaskState(stage="registration", status=TaskStatus.SKIPPED),
        },
    )
    return RunFolder.create(tmp_path, state)


def rendered(*items, **options):
    console = Console(width=160, record=True, file=io.StringIO(), **options)
    for item in items:
        item(console) if callable(item) else console.print(item)
    return console.export_text()


def test_scores_come_with_interval_and_sample_size(folder):
    text = rendered(lambda console: show(folder, console))
    line = next(line for line in text.splitlines() if "candidate" in line)
    assert line.count("0.800 [0.780, 0.820]") == 3
    assert "n = 40" in text
    assert "gain" in text and "0.2500" in text and "accepted" in text


def test_stages_come_with_time_processor_time_memory_and_cost(folder):
    text = rendered(lambda console: show(folder, console))
    line = next(line for line in text.splitlines() if "evaluation" in line and "MiB" in line)
    assert [part for part in ("1:15", "1:10", "300 MiB") if part in line] == ["1:15", "1:10", "300 MiB"]


def test_the_end_says_what_became_of_it_and_where_to_look(folder):
    text = rendered(lambda console: show(folder, console))
    assert "registered: the accepted policy is in the registry in 5:00" in text
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in text


def test_results_are_data_too(folder):
    found = results(folder)["evaluation"]
    assert found["gate"]["accepted"] is True
    assert found["policies"]["candidate"]["greedy"]["n"] == 40
    json.dumps(found)


def test_a_failure_names_the_stage_and_the_cause(folder):
    failed = TaskState(stage="srl", status=TaskStatus.FAILED, error="not finite: loss")
    folder.change(outcome=Outcome.FAILED, tasks={**folder.state.tasks, "srl": failed})
    assert headline(folder.state) == "failed: srl: not finite: loss"


def test_the_live_view_shows_how_far_the_stage_at_work_is(folder):
    folder.change_task("register_gold", status=TaskStatus.RUNNING, started=datetime.now(UTC))
    view = LiveView(folder, explain=True)
    assert "starting" in rendered(view)
    folder.progress("register_gold").parent.mkdir()
    folder.progress("register_gold").write_text('{"what": "steps", "done": 3, "total": 9}')
    assert "steps 3/9" in rendered(view)
    folder.progress("register_gold").write_text('{"what": "steps", "do')
    assert "register_gold" in rendered(view)


def test_off_a_terminal_each_change_is_a_line(folder):
    def work(console):
        with display(folder, console, explain=True):
            folder.change_task("register_gold", status=TaskStatus.RUNNING, miss="config.tier 1 -> 2")
            folder.change_task("register_gold", status=TaskStatus.DONE, seconds=2.0)

    first, second = rendered(work).splitlines()
    assert first.endswith("register_gold: running (config.tier 1 -> 2)")
    assert second.endswith("register_gold: done in 2.0 s")


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (75, "1:15"), (7380, "2:03:00")])
def test_clock(seconds, text):
    assert clock(seconds) == text
