"""Tracking on the side: in order, off the caller's time, and a failure is said once and never raised."""

import threading

from components.shared.contracts.records import Outcome
from pipelines.engines.tracking import BackgroundTracking


class Sink:
    """Records calls; fails or blocks where told to."""

    def __init__(self, fails_at=None, blocks=None):
        self.calls, self._fails_at, self._blocks = [], fails_at, blocks

    def _take(self, call):
        if self._blocks:
            self._blocks.wait(10)
        self.calls.append(call)
        if call == self._fails_at:
            raise ConnectionError("no\nserver")

    def start_run(self, run_id, tags, params):
        self._take("start")

    def log_stage(self, task, report, seconds):
        self._take(task)

    def finish(self, outcome):
        self._take(str(outcome))


def use(tracking, tmp_path):
    tracking.start_run("run", {}, {})
    tracking.log_stage("srl", tmp_path, 1.0)
    tracking.log_stage("rlvr", tmp_path, 1.0)
    tracking.finish(Outcome.REGISTERED)


def test_calls_are_made_in_order(tmp_path):
    tracking = BackgroundTracking(sink := Sink())
    use(tracking, tmp_path)
    assert tracking.close(10) is None
    assert sink.calls == ["start", "srl", "rlvr", "registered"]


def test_a_failure_is_said_in_one_line_and_ends_the_calls(tmp_path):
    tracking = BackgroundTracking(sink := Sink(fails_at="srl"))
    use(tracking, tmp_path)
    assert tracking.close(10) == "no server"
    assert sink.calls == ["start", "srl"]


def test_calls_return_while_the_sink_is_busy_and_closing_gives_up_in_time(tmp_path):
    gate = threading.Event()
    tracking = BackgroundTracking(Sink(blocks=gate))
    use(tracking, tmp_path)
    assert "did not answer" in tracking.close(0.01)
    gate.set()
