"""The morning report: from this machine's runs, and from what the state machine of an account keeps on S3."""

import json

import boto3
import pytest
from chromium import CHROMIUM, chromium
from moto import mock_aws

from components.shared.contracts.errors import CorruptArtifact, PipelineError, UsageError
from components.shared.contracts.records import Outcome
from components.shared.selection.prices import load_prices
from pipelines.compilers.collection import compile_collection
from pipelines.configuration import load_settings
from pipelines.engines.run_folder import TaskStatus
from pipelines.report.night import local_night, remote_night, told, write_night

HOSTILE = "<script>document.title = 'taken'</script>"
COLLECTION = compile_collection("prod").definition
PACKAGE = "arn:aws:sagemaker:us-east-1:111122223333:model-package/srl-rlvr-prod-npc-dialogue-gold/7"


def remote_run(outcome, tier="gold", **fields):
    return {
        "dag": "distillation",
        "model_type": "npc_dialogue",
        "tier": tier,
        "outcome": outcome,
        "detail": "the gate refused the candidate",
        "promoted": False,
        "alert": None,
        "package": None,
        "hours": 2.0,
        "execution": "arn:aws:sagemaker:us-east-1:111122223333:pipeline/p/execution/e",
        "on_demand": False,
        "teacher": {"package": None, "stale": False, "reason": None},
    } | fields


@pytest.fixture
def kept():
    """What the state machine keeps of a night in which a run failed."""
    stale = {"package": "p", "stale": True, "reason": "silver failed on 2026-01-30"}
    return {
        "night": "2026-01-31",
        "attempt": 1,
        "outcome": "failed",
        "fault": None,
        "alerts": ["npc_dialogue gold: distilled from a stale silver"],
        "promoted": [],
        "waiting": [PACKAGE],
        "requests": [],
        "runs": [
            remote_run("registered", package=PACKAGE, detail=f"waits for a person to promote {PACKAGE}", teacher=stale),
            remote_run("failed", "silver", detail=f"srl: CapacityError {HOSTILE}"),
            # A run whose machine was lost says less.
            {
                "dag": "post_training",
                "model_type": "npc_dialogue",
                "tier": "bronze",
                "outcome": "failed",
                "detail": "x",
            },
        ],
    }


def test_a_night_of_this_machine_is_the_latest_unless_named(make_night, tmp_path):
    make_night("first")
    make_night("second", alias="challenger")
    latest = local_night(tmp_path / "runs", None)
    assert (latest.night, [run.name for run in latest.runs]) == ("2026-01-02", ["second"])
    assert latest.waiting == (("npc_dialogue-bronze version 3", "srl-rlvr promote npc_dialogue-bronze"),)
    assert latest.runs[0].usd == 0.0, "this machine costs nothing"
    assert local_night(tmp_path / "runs", "2026-01-01").runs[0].name == "first"
    with pytest.raises(UsageError, match="unknown night '2026-01-09': did you mean"):
        local_night(tmp_path / "runs", "2026-01-09")


def test_the_runs_that_were_started_for_one_night_are_one_night(make_night, tmp_path):
    for name in ("a", "b"):
        folder = make_night(name)
        folder.change(parameters={**folder.state.parameters, "night": "2026-05-05"})
    assert [run.name for run in local_night(tmp_path / "runs", None).runs] == ["a", "b"]


def test_what_failed_says_why_and_what_to_type(make_night, tmp_path):
    folder = make_night("broken")
    folder.change_task("srl", status=TaskStatus.FAILED, error="not finite: loss: lower the learning rate")
    folder.change(outcome=Outcome.FAILED)
    night = local_night(tmp_path / "runs", None)
    (run,) = night.troubled
    assert night.outcome == "failed"
    assert run.detail == "srl: not finite: loss: lower the learning rate"
    assert ("go on", "srl-rlvr run --resume broken") in run.commands


def test_no_run_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no run in"):
        local_night(tmp_path, None)


def test_a_night_of_an_account_is_told_from_what_its_machine_kept(kept):
    night = told(kept, "s3://there", "prod", load_prices())
    assert night.waiting == (("srl-rlvr-prod-npc-dialogue-gold version 7", f"srl-rlvr promote {PACKAGE} --env prod"),)
    assert [run.outcome for run in night.troubled] == ["registered", "failed", "failed"]
    assert night.runs[0].stale == "silver failed on 2026-01-30"
    assert night.runs[1].commands[0][1].startswith("srl-rlvr triage arn:")
    gold = load_prices().of("ml.g6.12xlarge").usd_per_hour
    assert night.runs[0].usd == pytest.approx(2 * gold) or night.runs[0].usd > 0
    assert (night.unpriced, night.runs[2].seconds) == (1, None)


def test_what_a_collection_cost_is_estimated_by_its_own_machines(kept):
    kept["runs"] = [remote_run("collected", "bronze", dag="collection", hours=0.1)]
    night = told(kept, "s3://there", "prod", load_prices())
    machines = [step["Arguments"]["ProcessingResources"]["ClusterConfig"] for step in COLLECTION["Steps"]]
    hourly = sum(m["InstanceCount"] * load_prices().of(m["InstanceType"]).usd_per_hour for m in machines)
    assert night.unpriced == 0 and night.runs[0].estimated and night.usd == pytest.approx(0.1 * hourly)


def test_the_latest_report_of_the_account_is_read(kept, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    settings = load_settings("prod")
    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="srl-rlvr-prod")
        with pytest.raises(PipelineError, match="no report of any night under s3://srl-rlvr-prod/srl-rlvr/nights"):
            remote_night(settings, None)
        for night in ("2026-01-30", "2026-01-31"):
            key = f"srl-rlvr/nights/{night}/1/report.json"
            s3.put_object(Bucket="srl-rlvr-prod", Key=key, Body=json.dumps(kept | {"night": night}).encode())
        assert remote_night(settings, None).night == "2026-01-31"
        assert remote_night(settings, "2026-01-30").night == "2026-01-30"
        s3.put_object(Bucket="srl-rlvr-prod", Key="srl-rlvr/nights/2026-02-01/1/report.json", Body=b"{}")
        with pytest.raises(CorruptArtifact, match="is no report of a night"):
            remote_night(settings, None)
    with pytest.raises(UsageError, match="environment 'local' has no AWS account"):
        remote_night(load_settings("local"), None)


def test_nothing_that_was_recorded_becomes_markup(kept, tmp_path):
    page = write_night(told(kept, "s3://there", "prod", load_prices()), tmp_path / "night.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page


def test_the_command_writes_the_page(srl_rlvr, make_night, tmp_path):
    make_night("only")
    code, out, _ = srl_rlvr("report", "--nightly")
    assert code == 0 and out.strip().endswith("night-2026-01-01.html")
    code, _, err = srl_rlvr("report", "only", "--nightly")
    assert code == 2 and "report what? Pass a RUN, --nightly or --production" in err


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install -y chromium")
def test_real_chromium_shows_it_whole_at_both_widths(kept, make_night, tmp_path):
    make_night("night")
    pages = [
        write_night(told(kept, "s3://there", "prod", load_prices()), tmp_path / "remote.html"),
        write_night(local_night(tmp_path / "runs", None), tmp_path / "local.html"),
    ]
    with chromium(tmp_path / "profile") as tab:
        for page in pages:
            for width in (400, 1280):
                tab.open(page, width)
                assert tab.overflow() <= 0
        assert [c for c in tab.complaints if c["method"] != "Network.requestWillBeSent"] == []
