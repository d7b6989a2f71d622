import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
from moto import mock_aws

from components.shared.collaboration.rules_client import RulesClient
from components.shared.collaboration.rules_engine import RulesEngine
from components.shared.collaboration.rules_versions import (
    check_rules,
    need_retraining,
    request_retraining,
    rules_versions,
)
from components.shared.collaboration.verifier import Verifier
from components.shared.collaboration.world import Rule, RuleExample, load_world
from components.shared.contracts.errors import GateError, UsageError
from components.shared.contracts.records import Split
from components.shared.storage.places import names

TOKEN = "rules-token"


def rule(id="small", must="action['is']['sum'] < 40", severity="hard", model_types=("sum",), **changes):
    example = RuleExample(given={"scenario": {}, "facts": [], "action": {"is": {"sum": 3}}}, holds=True)
    fields = {"source": "sums.yaml:3", "message": "sums stay below 40", "examples": (example,), **changes}
    return Rule(id=id, must=must, severity=severity, model_types=model_types, **fields)


@pytest.fixture
def service():
    """A rules service over a real engine; `broken` makes it answer with that body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply({"version": server.version})

        def do_POST(self):
            variables = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = server.engine.evaluate(variables)
            broken = [{"rule": b.rule, "hard": b.hard, "reason": b.reason} for b in found.broken]
            self.reply({"held": found.held, "broken": broken, "score": found.score, "version": server.version})

        def reply(self, body):
            server.asked.append((self.command, self.headers["Authorization"]))
            content = json.dumps(body).encode() if server.broken is None else server.broken
            self.send_response(server.status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.engine, server.version, server.asked, server.status, server.broken = (
        RulesEngine([rule()]),
        "7",
        [],
        200,
        None,
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def client(service, clock):
    url = f"http://127.0.0.1:{service.server_port}"
    return RulesClient(url, TOKEN, ttl_s=60, retries=0, clock=clock)


def case(total):
    return {"scenario": {}, "facts": [], "action": {"is": {"sum": total}}}


def test_it_says_what_the_engine_says(client, service):
    engine = RulesEngine([rule()])
    for total in (3, 39, 40, 100):
        found, expected = client.evaluate(case(total)), engine.evaluate(case(total))
        assert (found.held, found.broken, found.score) == (expected.held, expected.broken, expected.score)
    assert {key for _, key in service.asked} == {f"Bearer {TOKEN}"}


def test_an_answer_is_asked_for_once_until_its_time_is_up_or_the_version_changes(client, service, clock):
    for _ in range(5):
        client.evaluate(case(3))
    assert [method for method, _ in service.asked] == ["GET", "POST"]
    clock.now = 61
    client.evaluate(case(3))
    assert [method for method, _ in service.asked] == ["GET", "POST"] * 2
    service.version, clock.now = "8", 122
    assert client.version == "8"
    client.evaluate(case(3))
    assert [method for method, _ in service.asked][4:] == ["GET", "POST"]


def test_an_old_answer_is_not_taken_for_a_new_one(client, service, clock):
    client.evaluate(case(3))
    service.status = 503
    client.evaluate(case(3))
    clock.now = 61
    with pytest.raises(GateError, match="answers 503"):
        client.evaluate(case(3))


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"version": ""}', b'{"held": [], "score": 2}'])
def test_an_answer_of_another_shape_judges_nothing(client, service, body):
    service.broken = body
    with pytest.raises(GateError, match="answers otherwise than agreed"):
        client.evaluate(case(3))


def test_nobody_there_judges_nothing():
    with pytest.raises(GateError, match=r"http://127\.0\.0\.1:1 cannot be reached"):
        RulesClient("http://127.0.0.1:1", retries=0).evaluate(case(3))


def test_rules_are_a_hard_gate_of_the_verifier(client, trainer, rng):
    verdicts = {}
    for scenario in trainer.scenarios(rng, 40, [Split.TRAIN]):
        steps = trainer.demonstrate(scenario, rng, trainer.teacher, ("mend",))
        verdicts[steps[1].action["sum"]] = Verifier(trainer, 0.7, client).verify(scenario, steps)
    assert all(verdict.passed == (total < 40) == verdict.gates["rules"] for total, verdict in verdicts.items())
    assert {verdict.passed for verdict in verdicts.values()} == {True, False}
    high = next(verdict for total, verdict in verdicts.items() if total >= 40)
    assert high.score == 0 and high.reasons == ("small: sums stay below 40",)


def test_only_model_types_whose_rules_changed_need_retraining(world):
    def versions(*rules):
        return rules_versions(world.model_copy(update={"rules": rules}))

    one, other, both = rule(), rule("odd", "true", model_types=("tale",)), rule("all", model_types=("sum", "tale"))
    before = versions(one, other)
    assert need_retraining(before, before) == ()
    assert need_retraining(before, versions(rule(message="reworded"), other)) == ()
    assert need_retraining(before, versions(rule(must="false"), other)) == ("sum",)
    assert need_retraining(before, versions(one, other, both)) == ("sum", "tale")
    assert need_retraining(before, versions(one)) == ("tale",)


@pytest.mark.parametrize("place", ["folder", "s3://nights/srl-rlvr/nights"])
def test_a_change_of_the_rules_asks_the_night_for_what_was_trained_by_the_old_ones(world, place, tmp_path, monkeypatch):
    def asked(*rules):
        return request_retraining(nights, world.model_copy(update={"rules": rules}))

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    nights, other = place if place.startswith("s3") else str(tmp_path), rule("odd", "true", model_types=("tale",))
    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="nights")
        assert asked(rule(), other) == () and names(f"{nights}/requests") == []
        assert asked(rule(must="false"), other) == ("sum",)
        version = RulesEngine([rule(must="false")]).version
        assert names(f"{nights}/requests") == [f"sum/bronze/rules-{version}"]
        assert asked(rule(must="false", message="reworded"), other) == ()


def test_examples_that_come_out_otherwise_are_named(world):
    wrong = rule(examples=(RuleExample(given=case(50), holds=True), RuleExample(given=case(50), holds=False)))
    found = check_rules(world.model_copy(update={"rules": (wrong,)}))
    assert (found.rules, found.examples) == (1, 2)
    (fault,) = found.faults
    assert fault == "sums.yaml:3: rule 'small': example 1 is broken, but is written to hold"
    with pytest.raises(UsageError, match=r"sums\.yaml:3: rule 'small': must: .*mend the expression"):
        check_rules(world.model_copy(update={"rules": (rule(must="1 +"),)}))


def test_the_rules_of_the_world_do_what_their_examples_say():
    found = check_rules(load_world("wrackmere"))
    assert found.faults == () and found.examples >= found.rules > 20
