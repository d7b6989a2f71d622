"""One suite for both registries: MLflow on SQLite, and SageMaker's model packages on moto."""

import json
import shutil
from collections import Counter

import boto3
import pytest
from moto import mock_aws
from moto.sagemaker.models import SageMakerModelBackend

from components.shared.contracts.errors import CorruptArtifact, PipelineError, UsageError
from components.shared.contracts.records import Tier
from components.shared.contracts.stage import Report
from components.shared.performance.model_registry import CHALLENGER, CHAMPION, model_name, open_registry
from components.shared.performance.sagemaker_registry import LATEST, SageMakerRegistry
from components.shared.storage.artifacts import read_manifest
from components.shared.storage.places import put_text, upload

NAME = model_name("npc_dialogue", Tier.GOLD)
GROUP, BUCKET = "srl-rlvr-test-npc-dialogue-gold", "bucket"
SAGEMAKER = f"sagemaker://srl-rlvr-test?region=us-east-1&bucket={BUCKET}&image=serving:1"


UPDATE = SageMakerModelBackend.update_model_package


def keeping_what_is_absent(backend, **given):
    """As the service does it: moto clears what an update does not name."""
    arn = given["model_package_arn"]
    known = backend.model_packages[backend.model_package_name_mapping.get(arn, arn)]
    absent = {name: getattr(known, name) for name in given if given[name] is None and hasattr(known, name)}
    return UPDATE(backend, **given | absent)


@pytest.fixture
def account(monkeypatch):
    """moto's account, with a bucket."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(SageMakerModelBackend, "update_model_package", keeping_what_is_absent)
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield


@pytest.fixture(params=["mlflow", "sagemaker"])
def registry(request, tmp_path):
    uri = request.getfixturevalue("store_uri") if request.param == "mlflow" else SAGEMAKER
    if request.param == "sagemaker":
        request.getfixturevalue("account")
    return open_registry(uri, downloads=tmp_path / "downloads")


@pytest.fixture
def sagemaker(account, tmp_path):
    return SageMakerRegistry(SAGEMAKER, tmp_path / "downloads")


def aliases(registry):
    return {version.number: version.aliases for version in registry.versions("npc_dialogue", Tier.GOLD)}


def test_nothing_is_registered_at_first(registry):
    assert registry.champion("npc_dialogue", Tier.GOLD) is None
    assert registry.versions("npc_dialogue", Tier.GOLD) == []
    assert registry.find(NAME, "d" * 64) is None


def test_the_same_policy_is_registered_once(registry, make_policy):
    first = registry.register(NAME, make_policy("a"), {"seed": "0", "score.greedy": "0.5"}, "card")
    again = registry.register(NAME, make_policy("copy"), {"seed": "1"}, "another card")
    other = registry.register(NAME, make_policy("b", weights=(3.0,)), {}, "card")
    assert (first.number, again.number, other.number) == (1, 1, 2)
    assert again.tags["seed"] == "0" and again.scores == {"greedy": 0.5}
    assert registry.find(NAME, other.policy_digest).number == 2


def test_a_corrupt_policy_is_not_registered(registry, make_policy):
    policy = make_policy()
    (policy / "config.json").write_text("{}")
    with pytest.raises(CorruptArtifact):
        registry.register(NAME, policy, {}, "card")
    assert registry.versions("npc_dialogue", Tier.GOLD) == []


def test_the_champion_outlives_the_folder_it_came_from(registry, make_policy):
    policy = make_policy()
    digest = read_manifest(policy).digest
    assert registry.promote(registry.register(NAME, policy, {}, "card"), approver="ada")
    shutil.rmtree(policy)
    champion = registry.champion("npc_dialogue", Tier.GOLD)
    assert (champion.policy_digest, champion.tags["approver"]) == (digest, "ada")
    assert read_manifest(champion.path).digest == digest


def test_one_champion_at_a_time_and_the_one_before_takes_its_place_again(registry, make_policy):
    first, second = (registry.register(NAME, make_policy(f"p{w}", (w,)), {}, "card") for w in (1.0, 2.0))
    registry.promote(first)
    registry.promote(second)
    assert aliases(registry) == {1: (), 2: (CHAMPION,)}
    registry.promote(first, approver="grace")
    assert aliases(registry) == {1: (CHAMPION,), 2: ()}
    assert registry.champion("npc_dialogue", Tier.GOLD).tags["approver"] == "grace"


def test_a_stale_comparison_does_not_move_the_champion(registry, make_policy):
    first, second, third = (registry.register(NAME, make_policy(f"p{w}", (w,)), {}, "card") for w in (1.0, 2.0, 3.0))
    assert registry.promote(first, over="base"), "nothing serves yet"
    assert registry.promote(second, over=first.policy_digest)
    assert not registry.promote(third, over=first.policy_digest), "second came since"
    assert registry.champion("npc_dialogue", Tier.GOLD).number == 2
    assert registry.promote(second, over="base"), "asked again by the run that promoted it"


def test_a_newer_challenger_keeps_its_place_until_it_is_rejected(registry, make_policy):
    old, new = (registry.register(NAME, make_policy(f"p{w}", (w,)), {}, "card") for w in (1.0, 2.0))
    assert registry.challenge(new)
    assert not registry.challenge(old)
    assert aliases(registry) == {1: (), 2: (CHALLENGER,)}
    registry.reject(new, "ada", "speaks in rhymes")
    assert aliases(registry)[2] == ()
    (rejected,) = [v for v in registry.versions("npc_dialogue", Tier.GOLD) if v.number == 2]
    assert (rejected.tags["rejected_by"], rejected.tags["rejected_because"]) == ("ada", "speaks in rhymes")
    assert registry.challenge(new), "asked for again, it waits again"


def test_what_served_is_told_from_what_only_waited_and_from_what_was_rejected(registry, make_policy):
    first, second, third = (registry.register(NAME, make_policy(f"p{w}", (w,)), {}, "card") for w in (1.0, 2.0, 3.0))
    registry.promote(first)
    registry.promote(second)
    registry.challenge(third)

    def served():
        return [version.served for version in registry.versions("npc_dialogue", Tier.GOLD)]

    assert served() == [True, True, False]
    registry.promote(first, approver="ada")
    registry.reject(second, "ada", "rolled back")
    assert served() == [True, False, False]
    registry.promote(second, approver="grace")
    assert served() == [True, True, False]
    tags = registry.find(NAME, second.policy_digest).tags
    assert tags["approver"] == "grace" and not {"rejected_by", "rejected_because"} & tags.keys(), "promoted after all"


def test_what_serves_is_not_rejected(registry, make_policy):
    version = registry.register(NAME, make_policy(), {}, "card")
    registry.promote(version)
    with pytest.raises(UsageError, match="version 1 serves: give the place to another one first"):
        registry.reject(version, "ada", "")


def test_what_becomes_known_later_is_added_and_overwrites_nothing(registry, make_policy):
    version = registry.register(NAME, make_policy(), {"seed": "0"}, "card")
    registry.annotate(version, {"cost_usd": "1.25", "seed": "9"})
    registry.annotate(version, {"cost_usd": "9"})
    found = registry.find(NAME, version.policy_digest).tags
    assert (found["cost_usd"], found["seed"]) == ("1.25", "0")


def test_compare_shows_scores_and_only_the_lineage_that_differs(registry, make_policy):
    a = registry.register(NAME, make_policy("a"), {"score.greedy": "0.5", "seed": "0", "tier": "gold"}, "card")
    b = registry.register(
        NAME, make_policy("b", (3.0,)), {"score.greedy": "0.75", "score.new": "1", "tier": "gold"}, ""
    )
    comparison = registry.compare(a, b)
    assert comparison.scores == {"greedy": (0.5, 0.75), "new": (None, 1.0)}
    assert comparison.lineage == {"policy_digest": (a.policy_digest, b.policy_digest), "seed": ("0", None)}


def test_registered_trusts_only_what_the_registry_holds(registry, make_policy, make_report):
    version = registry.register(NAME, make_policy(), {}, "card")
    said = {"name": NAME, "version": version.number, "policy_digest": version.policy_digest}
    true = make_report(Report(stage="registration", summary="", details=said), "true")
    other = make_report(Report(stage="registration", summary="", details=said | {"version": 7}), "other")
    assert (registry.registered(true), registry.registered(other)) == (True, False)


def package(policy, place, compared_with, status="PendingManualApproval"):
    """A package as the nightly state machine makes it; returns its ARN."""
    client = boto3.client("sagemaker")
    if not client.list_model_package_groups()["ModelPackageGroupSummaryList"]:
        client.create_model_package_group(ModelPackageGroupName=GROUP)
    upload(policy, f"s3://{BUCKET}/{place}/policy")
    put_text(f"s3://{BUCKET}/{place}/report.json", json.dumps({"stage": "evaluation", "metrics": {"greedy": 0.75}}))
    data = {"S3Uri": f"s3://{BUCKET}/{place}/policy/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    statistics = {"ContentType": "application/json", "S3Uri": f"s3://{BUCKET}/{place}/report.json"}
    digest = read_manifest(policy).digest
    return client.create_model_package(
        ModelPackageGroupName=GROUP,
        ModelApprovalStatus=status,
        InferenceSpecification={
            "Containers": [{"Image": "serving:1", "ModelDataSource": {"S3DataSource": data}}],
            "SupportedContentTypes": ["application/json"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
        ModelMetrics={"ModelQuality": {"Statistics": statistics}},
        CustomerMetadataProperties={"policy_digest": digest, "compared_with": compared_with, "night": "2026-01-01"},
    )["ModelPackageArn"]


def test_the_packages_of_the_night_are_versions(sagemaker, make_policy):
    one, two = make_policy("one"), make_policy("two", (3.0,))
    serving = package(one, "night/1", "base", "Approved")
    package(two, "night/2", serving)
    first, second = sagemaker.versions("npc_dialogue", Tier.GOLD)
    assert (first.aliases, second.aliases) == ((CHAMPION,), (CHALLENGER,))
    assert sagemaker.find(NAME, second.policy_digest).scores == {"greedy": 0.75}
    assert sagemaker.compare(first, second).scores == {"greedy": (0.75, 0.75)}
    assert second.source == f"s3://{BUCKET}/night/2/policy/", "where an execution in AWS starts from"
    assert second.evidence == f"s3://{BUCKET}/night/2/report.json"
    assert (first.served, second.served) == (True, False), "the night approves without naming an approver"
    assert second.tags["compared_with"] == first.policy_digest, "an ARN means the policy of its package"
    assert sagemaker.promote(second, "ada", over=second.tags["compared_with"])
    champion = sagemaker.champion("npc_dialogue", Tier.GOLD)
    assert champion.tags["night"] == "2026-01-01", "what the night wrote stays"
    assert read_manifest(champion.path).digest == read_manifest(two).digest
    described = boto3.client("sagemaker").describe_model_package(ModelPackageName=second.run)
    assert described["ApprovalDescription"] == "promoted by ada"


def test_a_group_of_a_year_costs_few_calls(sagemaker, make_policy):
    """The champion is older than all that is looked at one by one, and was compared with what is there no more."""
    policies = [make_policy(f"p{i}", (float(i),)) for i in range(3)]
    package(policies[0], "night/0", "arn:aws:sagemaker:us-east-1:1:model-package/gone/1", "Approved")
    for night in range(1, 2 * LATEST):
        package(policies[1], f"night/{night}", "base")
    package(policies[2], "night/last", "base")
    calls = Counter()
    sagemaker._client.meta.events.register("before-call.sagemaker", lambda model, **_: calls.update([model.name]))

    def asked(what, *arguments):
        calls.clear()
        return what(*arguments), calls["DescribeModelPackage"]

    versions, describes = asked(sagemaker.versions, "npc_dialogue", Tier.GOLD)
    assert [v.number for v in versions] == [1, *range(LATEST + 2, 2 * LATEST + 2)]
    assert (versions[0].aliases, versions[-1].aliases) == ((CHAMPION,), (CHALLENGER,))
    assert versions[0].tags["compared_with"].endswith("gone/1")
    assert describes == LATEST + 2, "those, and what the champion was compared with"
    champion, describes = asked(sagemaker.champion, "npc_dialogue", Tier.GOLD)
    assert champion.number == 1 and describes <= 2
    newest, describes = asked(sagemaker.find, NAME, read_manifest(policies[2]).digest)
    assert newest.number == 2 * LATEST + 1 and describes == 1
    promoted, describes = asked(sagemaker.promote, newest, "ada", champion.policy_digest)
    assert promoted and describes <= 4
    assert asked(sagemaker.find, NAME, "d" * 64)[0] is None, "however old: a policy is registered once"


def test_a_lost_report_does_not_stop_a_roll_back(sagemaker, make_policy):
    package(make_policy("one"), "night/1", "base", "Approved")
    package(make_policy("two", (3.0,)), "night/2", "base", "Approved")
    boto3.client("s3").delete_object(Bucket=BUCKET, Key="night/1/report.json")
    first, _ = sagemaker.versions("npc_dialogue", Tier.GOLD)
    assert sagemaker.promote(first, approver="ada")
    assert aliases(sagemaker) == {1: (CHAMPION,), 2: ()}
    with pytest.raises(PipelineError, match=r"night/1/report\.json: NoSuchKey"):
        sagemaker.find(NAME, first.policy_digest)


def test_a_policy_that_was_altered_on_s3_does_not_serve(sagemaker, make_policy):
    package(make_policy(), "night/1", "base", "Approved")
    put_text(f"s3://{BUCKET}/night/1/policy/config.json", "{}")
    with pytest.raises(CorruptArtifact, match=r"config\.json does not match"):
        sagemaker.champion("npc_dialogue", Tier.GOLD)


def test_bad_uris_and_too_many_tags_are_one_line(account, make_policy):
    with pytest.raises(UsageError, match="names no group prefix: write sagemaker://GROUP_PREFIX"):
        open_registry("sagemaker://")
    with pytest.raises(UsageError, match="did you mean 'bucket'"):
        open_registry("sagemaker://x?buckt=b")
    with pytest.raises(UsageError, match=r"needs \?bucket="):
        open_registry("sagemaker://x?region=us-east-1").register(NAME, make_policy(), {}, "")
    many = {f"tag{i}": "x" for i in range(50)}
    with pytest.raises(UsageError, match="51 tags, SageMaker keeps 50"):
        open_registry(SAGEMAKER).register(NAME, make_policy("other"), many, "")


def test_an_account_out_of_reach_is_one_line(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with pytest.raises(PipelineError, match="no AWS credentials: run `aws sso login`") as error:
        open_registry("sagemaker://x?region=us-east-1").versions("npc_dialogue", Tier.GOLD)
    assert "\n" not in str(error.value)
