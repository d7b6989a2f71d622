"""The contract with kfp.local's internals: what breaks here after an upgrade of kfp has to be mended in kfp_adapter."""

import json

import pytest
from kfp.local import subprocess_task_handler, task_dispatcher
from toys import compiled

from components.shared.contracts.errors import GateError
from pipelines.engines.kfp_adapter import respelled, run_ir


def answer(call, **scalars):
    """Do as a container would: write the executor's output, with every artifact where it was asked for."""
    outputs = call.executor_input["outputs"]
    artifacts = {
        name: {"artifacts": [{"name": name, "uri": listed["artifacts"][0]["uri"], "metadata": {}}]}
        for name, listed in outputs["artifacts"].items()
    }
    from pathlib import Path

    path = Path(outputs["outputFile"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"artifacts": artifacts, "parameterValues": scalars}))
    return True


@pytest.fixture
def ran(tmp_path):
    calls = []

    def run(ir, margin, fails=()):
        def task(call):
            calls.append(call)
            if call.task in fails:
                return False
            return answer(call, **({"margin": margin} if call.task == "judge" else {}))

        run_ir(ir, {"seed": 5}, task, scratch=tmp_path / "kfp", log=tmp_path / "kfp.log")
        return calls

    return run


def test_each_task_comes_with_its_name_its_command_and_its_input(ran):
    grow, judge, enroll = ran(compiled().ir, 1.0)
    assert [call.task for call in (grow, judge, enroll)] == ["grow", "judge", "enroll_toy"]
    assert grow.command == ("python", "-m", "toy_stage", "grow")
    assert grow.image == "toys/data:1"
    values = grow.executor_input["inputs"]["parameterValues"]
    assert values["seed"] == 5 and isinstance(values["seed"], int)
    assert json.loads(values["config"]) == {"fail": False, "size": 3}


def test_an_output_that_the_task_puts_elsewhere_reaches_the_next_task(ran, tmp_path):
    calls = ran(compiled().ir, 1.0)
    made = calls[0].executor_input["outputs"]["artifacts"]["seeds"]["artifacts"][0]["uri"]
    assert calls[1].executor_input["inputs"]["artifacts"]["seeds"]["artifacts"][0]["uri"] == made


@pytest.mark.parametrize(("margin", "open_"), [(0.0, True), (1e-9, True), (-1e-9, False), (-2.0, False), (3.5, True)])
def test_the_gate_reads_the_number(ran, margin, open_):
    assert ("enroll_toy" in [call.task for call in ran(compiled().ir, margin)]) is open_


def test_a_failed_task_ends_what_depends_on_it(ran):
    assert [call.task for call in ran(compiled().ir, 1.0, fails=("grow",))] == ["grow"]


def test_what_a_task_raises_comes_through_and_kfp_is_as_it_was(tmp_path):
    before = subprocess_task_handler.SubprocessTaskHandler

    def task(call):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_ir(compiled().ir, {}, task, scratch=tmp_path / "kfp", log=tmp_path / "kfp.log")
    assert subprocess_task_handler.SubprocessTaskHandler is before
    assert task_dispatcher.subprocess_task_handler is subprocess_task_handler


def test_a_condition_that_kfp_cannot_read_is_an_error_and_not_a_shut_gate(ran):
    ir = respelled(compiled().ir)
    text = json.dumps(ir).replace("pipelinechannel--judge--margin", "pipelinechannel--judge--nothing")
    with pytest.raises(GateError, match="could not read a condition"):
        ran(json.loads(text), 1.0)


def test_kfps_messages_stay_off_the_terminal(ran, tmp_path, capsys):
    ran(compiled().ir, 1.0)
    assert capsys.readouterr() == ("", "")
    assert "Executing task" in (tmp_path / "kfp.log").read_text()
