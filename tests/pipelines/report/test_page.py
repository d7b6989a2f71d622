"""The page: what it says, that it trusts nothing, and that real Chromium shows it whole at both widths."""

import re

import pytest
from chromium import CHROMIUM, chromium
from toys import run_toys

from components.shared.contracts.errors import CorruptArtifact
from components.shared.contracts.records import Outcome
from pipelines.engines.run_folder import TaskState, TaskStatus
from pipelines.report.facts import read_run
from pipelines.report.page import bars, changes, cost, render, waiting, write_page
from pipelines.report.weaknesses import weaknesses

HEADINGS = [
    "Stages",
    "Held-out scores",
    "Weaknesses",
    "Curves",
    "Rollouts to read",
    "Data",
    "Lineage",
    "Where to look next",
]


@pytest.fixture
def page(make_night):
    return render(make_night())


def test_it_says_what_changed_with_its_interval_and_what_a_gate_kept(make_night):
    first, second = changes(read_run(make_night()))
    assert first == (
        "npc_dialogue-bronze version 3 is the champion, a gain of +0.300 [+0.280, +0.320] held-out score over the "
        "champion before"
    )
    assert second == (
        "distill_silver keeps the champion: retention of teacher is 0.810 by its lower bound, 0.950 needed"
    )


def test_a_challenger_waits_for_a_person_and_a_champion_does_not(make_night):
    (line,) = waiting(read_run(make_night("asks", alias="challenger")))
    assert line.startswith("npc_dialogue-bronze version 3: ")
    assert waiting(read_run(make_night("asks-not"))) == []


def test_what_was_cached_costs_nothing(make_night):
    folder = make_night()
    assert cost(read_run(folder))["cpu"] == 50.0
    folder.change_task("srl", status=TaskStatus.CACHED)
    found = cost(read_run(folder))
    assert (found["cpu"], found["saved"]) == (20.0, 60.0)


def test_weaknesses_are_named_and_a_trend_needs_more_than_one_night(make_night):
    found = weaknesses(make_night("first", failing=0))
    assert [w.name for w in found["slices"]] == ["manner threat"]
    assert found["degraded"][0].now > found["degraded"][0].before == 0.0
    assert found["trends"] == []
    make_night("second", failing=40)
    rising = weaknesses(make_night("third", failing=80))["trends"]
    assert {t["trend"].name: t["trend"].direction for t in rising}["all scenarios"] == "rising"
    assert rising[0]["trend"].rates == (0.25, 0.45, 0.65)


def test_every_section_is_there_in_the_order_in_which_people_ask(page):
    assert re.findall(r"<h2 id=\"\w+\">(.*?)</h2>", page) == HEADINGS


def test_nothing_that_a_run_wrote_becomes_markup(page):
    assert "<script" not in page
    assert page.count("&lt;script&gt;document.title") >= 5


def test_the_page_refers_to_nothing_outside_itself(page):
    assert not re.findall(r"(?:src|href)=\"(?!#)[^\"]*\"|url\(|@import", page)
    assert "default-src 'none'" in page


def test_a_malformed_curve_is_named(make_night):
    folder = make_night()
    curve = folder.runs / folder.state.tasks["srl"].outputs["report"] / "metrics.jsonl"
    curve.write_text('{"step": 0, "loss": 1.0}\n{"step": 1, "lo')
    with pytest.raises(CorruptArtifact, match=r"metrics\.jsonl:2 is no JSON"):
        render(folder)


def test_a_failed_run_says_why_and_how_to_go_on(make_night):
    folder = make_night("broken")
    failed = TaskState(stage="srl", status=TaskStatus.FAILED, error="not finite: loss: lower the learning rate")
    folder.change(outcome=Outcome.FAILED, tasks={**folder.state.tasks, "srl": failed})
    page = render(folder)
    assert "Srl: not finite: loss: lower the learning rate." in page
    assert "srl-rlvr run --resume broken" in page


def test_a_real_run_of_other_stages_has_a_page_too(tmp_path):
    folder = run_toys(tmp_path / "runs", "kept", ["judge.bar=9"])
    assert folder.state.tasks["enroll_toy"].after == ("judge",)
    path = write_page(folder)
    assert path == folder.path / "report.html"
    assert ">Refused</span>" in path.read_text()


def test_the_rest_of_a_long_table_is_summed_up():
    found = bars({f"rule-{i}": i for i in range(1, 13)}, most=4)
    assert [(name, count) for name, count, _ in found] == [
        ("rule-12", 12),
        ("rule-11", 11),
        ("rule-10", 10),
        ("9 others", 45),
    ]
    assert bars({}) == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install -y chromium")
def test_real_chromium_shows_it_whole_at_both_widths_without_a_complaint(make_night, tmp_path):
    path = write_page(make_night())
    with chromium(tmp_path / "profile") as tab:
        for width in (400, 1280):
            for dark in (False, True):
                tab.open(path, width, dark)
                assert tab.evaluate("innerWidth") == width
                assert tab.overflow() <= 0
                tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
                assert tab.overflow() <= 0
        assert tab.evaluate("document.title") == "night: registered"
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 23)"
        assert tab.evaluate("document.querySelector('.rail').getBoundingClientRect().height") == tab.evaluate(
            "[...document.querySelectorAll('.task')].reduce((sum, e) => sum + e.getBoundingClientRect().height, 0)"
        )
        requests = [c for c in tab.complaints if c["method"] == "Network.requestWillBeSent"]
        assert {r["params"]["request"]["url"] for r in requests} == {path.as_uri()}
        assert [c for c in tab.complaints if c not in requests] == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install -y chromium")
def test_the_check_sees_overflow_and_refused_requests(tmp_path):
    bad = tmp_path / "bad.html"
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
    bad.write_text(f"<html><head>{policy}</head><body><pre>{'wide' * 200}</pre><script>1</script></body></html>")
    with chromium(tmp_path / "profile") as tab:
        tab.open(bad, 400)
        assert tab.overflow() > 0
        assert any(c["method"] == "Log.entryAdded" for c in tab.complaints)
