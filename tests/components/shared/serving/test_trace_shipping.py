"""Traces on their way to S3: moto's server, with calls that fail before they arrive or whose answer is lost."""

import contextlib
import itertools
import random
import time
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError
from moto.server import ThreadedMotoServer

from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.contracts.records import Tier, Trace
from components.shared.serving.router_config import load_router_config
from components.shared.serving.trace_shipping import TraceShipper
from components.shared.serving.traces import TraceWriter

PLACE = "s3://bucket/traces/served"
MONDAY = datetime(2026, 1, 5, 12, tzinfo=UTC)


def refused(**_):
    raise ClientError({"Error": {"Code": "SlowDown", "Message": "injected"}}, "PutObject")


def lost(**_):
    raise ConnectionClosedError(endpoint_url="injected")


class S3:
    """A bucket on moto's server; `faults` are (event, handler) that every client of the code under test has."""

    def __init__(self, monkeypatch):
        self.faults, self.calls, made = [], set(), boto3.client
        self._client = made("s3")
        self._client.create_bucket(Bucket="bucket")

        def client(service, **options):
            one = made(service, **options)
            one.meta.events.register("before-call.s3", lambda model, **_: self.calls.add(model.name))
            for event, handler in self.faults:
                one.meta.events.register(event, handler)
            return one

        monkeypatch.setattr(boto3, "client", client)

    @property
    def keys(self):
        """What is there, below the place."""
        listed = self._client.list_objects_v2(Bucket="bucket").get("Contents", ())
        return [item["Key"].removeprefix("traces/served/") for item in listed]

    @property
    def files(self):
        """The lines of every object, by key."""
        bodies = {
            key: self._client.get_object(Bucket="bucket", Key=f"traces/served/{key}")["Body"] for key in self.keys
        }
        return {key: body.read().decode().splitlines() for key, body in bodies.items()}

    @property
    def ids(self):
        return sorted(Trace.model_validate_json(line).id for lines in self.files.values() for line in lines)


@pytest.fixture(scope="module")
def server():
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(server, monkeypatch):
    given = {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1", "MAX_ATTEMPTS": "1"}
    for name, value in (given | {"ENDPOINT_URL": server}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    yield S3(monkeypatch)
    boto3.resource("s3").Bucket("bucket").objects.delete()
    boto3.resource("s3").Bucket("bucket").delete()


class Host:
    """A serving machine, with a clock to set; `restart` is a new process on the same disk."""

    def __init__(self, folder):
        self.folder, self.now, self.written = folder, MONDAY, []
        self.restart()

    def restart(self):
        self.writer = TraceWriter(self.folder / "traces", max_lines=3)
        self.shipper = TraceShipper(
            self.writer, self.folder / "outbox", f"{PLACE}/", host="router-1", now=lambda: self.now
        )

    def answer(self, count):
        for _ in range(count):
            trace = self.writer.write(
                model_type="npc", tier=Tier.GOLD, policy="p", prompt="x", completion="y", latency_ms=1.0
            )
            self.written.append(trace.id)

    @property
    def waiting(self):
        return sorted(path.relative_to(self.folder).as_posix() for path in (self.folder / "outbox").rglob("*.jsonl"))


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def test_complete_files_arrive_below_day_and_host_and_are_gone_here(s3, host):
    host.answer(7)
    assert host.shipper.ship() == 2
    assert [(key.rsplit("-", 1)[0], len(lines)) for key, lines in s3.files.items()] == [
        ("2026-01-05/router-1/traces-000001", 3),
        ("2026-01-05/router-1/traces-000002", 3),
    ]
    assert host.shipper.ship() == 0 and not host.waiting
    host.writer.close()
    host.shipper.ship()
    assert s3.ids == sorted(host.written) and not list((host.folder / "traces").iterdir())
    assert s3.calls == {"PutObject"}


def test_a_quiet_routers_file_is_complete_when_it_is_old_and_no_other_processs_is_taken(s3, tmp_path):
    host = Host(tmp_path)
    host.answer(1)
    other = TraceWriter(tmp_path / "traces", max_age_s=0)
    assert other.complete() == [], "the first still appends to it"
    host.writer.close()
    other.write(model_type="npc", tier=Tier.GOLD, policy="p", prompt="x", completion="y", latency_ms=1.0)
    assert len(other.complete()) == 2


@pytest.mark.parametrize(("event", "fault"), [("before-call.s3.PutObject", refused), ("after-call.s3.PutObject", lost)])
@pytest.mark.parametrize("later", [timedelta(minutes=1), timedelta(days=1), timedelta(days=3)])
def test_what_s3_did_not_take_or_not_confirm_waits_and_is_there_once(s3, host, event, fault, later):
    host.answer(6)
    s3.faults.append((event, fault))
    with pytest.raises(PipelineError, match=r"s3://bucket/traces/served/2026-01-05/router-1/traces-000001-\w+\.jsonl"):
        host.shipper.ship()
    host.writer.close()
    host.restart()
    s3.faults.clear()
    host.now += later
    host.shipper.ship()
    assert s3.ids == sorted(host.written) and not host.waiting
    days = {key.split("/")[0] for key in s3.files}
    assert str(host.now.date()) in days, "a night reads the day before it: what had not arrived goes with today"


def test_only_what_the_bucket_lets_a_serving_account_do_is_asked(s3, host):
    host.answer(3)
    s3.faults.append(("before-call.s3.PutObject", refused))
    with contextlib.suppress(PipelineError):
        host.shipper.ship()
    s3.faults.clear()
    host.now += timedelta(days=1)
    host.shipper.ship()
    assert s3.calls == {"PutObject", "ListObjectsV2"}


@pytest.mark.parametrize("seed", [2, *(pytest.param(seed, marks=pytest.mark.whole) for seed in range(3, 9))])
def test_through_faults_restarts_and_midnights_every_trace_is_there_once(s3, host, seed):
    """A night reads the day before it at 01:00: nothing more comes to a day that is read."""
    rng, read = random.Random(seed), {}
    events = [
        (f"{when}.s3.{call}", fault)
        for call in ("PutObject", "ListObjectsV2")
        for when, fault in (("before-call", refused), ("after-call", lost))
    ]
    for _ in range(20):
        host.answer(rng.randrange(5))
        if rng.random() < 0.3:
            host.writer.close()
            host.restart()
        s3.faults[:] = [event for event in events if rng.random() < 0.3]
        with contextlib.suppress(PipelineError):
            host.shipper.ship()
        host.now += timedelta(hours=rng.choice((1, 1, 5, 23)))
        there = by_day(s3.keys)
        read |= {day: keys for day, keys in there.items() if day not in read and over(day, host.now)}
    s3.faults.clear()
    host.writer.close()
    host.shipper.ship()
    assert s3.ids == sorted(host.written) and not host.waiting
    assert {day: keys for day, keys in by_day(s3.keys).items() if day in read} == read


def by_day(keys):
    return {day: list(group) for day, group in itertools.groupby(keys, key=lambda key: key.split("/")[0])}


def over(day, now):
    return datetime.fromisoformat(f"{day}T01:00:00+00:00") + timedelta(days=1) <= now


def test_it_ships_beside_the_requests_says_what_fails_and_once_more_at_the_end(s3, host, caplog):
    failed = []
    s3.faults.append(("before-call.s3.PutObject", refused))
    host.answer(3)
    host.shipper.start(0.01, lambda: failed.append(s3.faults.clear()))
    deadline = time.monotonic() + 10
    while not s3.keys and time.monotonic() < deadline:
        time.sleep(0.01)
    host.answer(1)
    host.writer.close()
    host.shipper.stop(10)
    assert s3.ids == sorted(host.written) and len(failed) == 1
    assert "traces wait in" in caplog.text and "SlowDown" in caplog.text


def test_traces_go_to_a_prefix_and_nowhere_else(tmp_path):
    file = tmp_path / "router.yaml"
    file.write_text("tiers: {gold: {kind: in_process, base: x}}\nselection: y\ntraces_to: bucket/traces\n")
    with pytest.raises(UsageError, match=r"traces_to.*bucket/traces"):
        load_router_config(file)
