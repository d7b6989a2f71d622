import sys

import pytest

from benchmarks import __main__ as driver
from benchmarks.measures import Machine, Measure, Ratio, Result
from benchmarks.table import past_target, write_table

MACHINE = Machine(processor="cpu", cores=2, load=1.5, python="3.11.1", libraries={"torch": "2"})
FAST = Measure(
    name="fast",
    unit="tokens/s",
    ours=6459.4,
    peer=1447.9,
    peer_name="TRL",
    ratio=Ratio(mean=4.46, low=3.8, high=5.29),
    at_least=2.0,
    note="same loss",
)
SLOW = Measure(
    name="slow", unit="s", ours=3.0, peer=2.0, peer_name="TRL", ratio=Ratio(mean=1.5, low=1.4, high=1.6), at_most=0.6
)
PLAIN = Measure(name="plain", unit="ms", ours=4.25, at_most=5.0)


def test_the_page_says_what_was_found_what_was_wanted_and_what_falls_short(tmp_path):
    results = {
        "training.a": Result(measures=(FAST, SLOW), machine=MACHINE),
        "serving.b": Result(measures=(PLAIN,), machine=MACHINE),
    }
    write_table(results, tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    assert "| fast (same loss) | 6,459 tokens/s | 1,448 tokens/s TRL | 4.46 [3.8, 5.29] | >= 2 | yes |" in page
    assert "| slow | 3 s | 2 s TRL | 1.5 [1.4, 1.6] | <= 0.6 | no |" in page
    assert "| plain | 4.25 ms | <= 5 | yes |" in page
    assert "`python -m benchmarks training.a`" in page
    assert "cpu, 2 cores, Python 3.11.1, torch 2: training.a (load 1.5), serving.b (load 1.5)" in page


def test_the_drawing_is_the_same_for_the_same_results(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_table({"training.a": Result(measures=(FAST, SLOW), machine=MACHINE)}, tmp_path / name)
    first, second = ((tmp_path / name / "benchmarks.svg").read_bytes() for name in ("one", "two"))
    assert first == second and b"fast" in first and b"slow" in first


def test_further_right_is_better_for_both_kinds_of_target():
    assert past_target(FAST) == pytest.approx((1.9, 2.23, 2.645))
    assert past_target(SLOW) == pytest.approx((0.375, 0.4, 0.6 / 1.4))


BENCHMARK = """
from benchmarks.measures import Measure, publish
import sys
if "break" in sys.argv: raise SystemExit("broken")
print("noise"); sys.exit(publish(Measure(name="toy", unit="s", ours=2.0, at_most=1.0, note=" ".join(sys.argv[1:]))))
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one benchmark, `topic.toy`, beside the real measures."""
    (tmp_path / "benchmarks" / "training").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    source = driver.PROJECT / "benchmarks" / "measures.py"
    (tmp_path / "benchmarks" / "measures.py").write_text(source.read_text())
    (tmp_path / "benchmarks" / "training" / "toy.py").write_text(BENCHMARK)
    monkeypatch.setattr(driver, "PROJECT", tmp_path)
    monkeypatch.setattr(driver, "RESULTS", tmp_path / "benchmarks" / "results")
    monkeypatch.setattr(driver, "BENCHMARKS", ("training.toy",))
    return tmp_path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    return driver.main()


@pytest.mark.slow
def test_a_run_is_recorded_a_missed_target_is_no_failure_and_a_crash_keeps_the_old_result(project, monkeypatch, capsys):
    assert run(monkeypatch, "training", "--", "--size", "3") == 0
    assert "noise" in capsys.readouterr().out
    page = (project / "docs" / "benchmarks.md").read_text()
    assert "| toy (--size 3) | 2 s | <= 1 | no |" in page
    assert run(monkeypatch, "training.toy", "--", "break") == 1
    assert "no result from training.toy" in capsys.readouterr().err
    assert (project / "docs" / "benchmarks.md").read_text() == page
    assert run(monkeypatch, "--table") == 0


def test_an_unknown_name_is_refused_with_the_known_ones(project, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "nothing")
    assert "no benchmark nothing: choose from training.toy" in capsys.readouterr().err
