"""A stage's process: what it is told."""

import os

import pytest

from components.catalogue import spec_of
from pipelines.engines.process import StageJob, Subprocesses

SAYS = ("python", "-c", "import os; print(os.environ.get('SRL_RLVR_REQUEST_CACHE'))")


def told(tmp_path, runner):
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    spec = spec_of("trajectory_generation")
    log = tmp_path / "log"
    log.unlink(missing_ok=True)
    job = StageJob(
        spec=spec, config=spec.config(), key="k", image="data", command=SAYS, environment={}, log=log, reads=(), writes=(),
        lock=lock,
    )  # fmt: skip
    try:
        assert runner.run(job)[0] == 0
    finally:
        os.close(lock)
    return log.read_text().strip()


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    monkeypatch.delenv("SRL_RLVR_REQUEST_CACHE", raising=False)


def test_answers_of_paid_endpoints_outlive_a_run(tmp_path):
    assert told(tmp_path, Subprocesses(cache=tmp_path / "cache")) == str(tmp_path / "cache" / "requests.sqlite")


def test_the_users_own_record_is_used_where_one_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SRL_RLVR_REQUEST_CACHE", "/mine.sqlite")
    assert told(tmp_path, Subprocesses(cache=tmp_path / "cache")) == "/mine.sqlite"
    assert told(tmp_path, Subprocesses()) == "/mine.sqlite"
