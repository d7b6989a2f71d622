"""The configuration as a whole, schema-checked: the AWS provider itself needs a network, and AWS an account."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from deployment import CONFIGURATION

MISTAKES = """
resource "aws_sagemaker_pipelin" "misspelt" {}

resource "aws_s3_bucket" "argument" {
  buckett = "x"
}

resource "aws_sqs_queue" "type" {
  name = ["a", "list"]
}

resource "aws_sns_topic_subscription" "missing" {
  protocol = "email"
}

resource "aws_iam_role" "read_only" {
  assume_role_policy = "{}"
  arn                = "arn:aws:iam::111122223333:role/mine"
}
"""


def tfvars(environment):
    text = (CONFIGURATION / "environments" / environment / "terraform.tfvars").read_text()
    return dict(re.findall(r"^(\w+)\s*=\s*(.+)$", text, re.M))


def test_the_configuration_is_formatted(terraform_binary):
    command = [terraform_binary, "fmt", "-check", "-recursive", CONFIGURATION]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"terraform fmt would change {done.stdout}"


def test_environments_set_the_same_variables_and_repeat_no_value():
    dev, prod = tfvars("dev"), tfvars("prod")
    assert dev.keys() == prod.keys()
    assert not [name for name in dev if dev[name] == prod[name]], "what both share is a default in variables.tf"


def test_no_lock_file_without_a_releases_hashes_is_in_the_tree():
    for lock in CONFIGURATION.rglob(".terraform.lock.hcl"):
        assert '"zh:' in lock.read_text(), f"{lock}: run terraform init with the real provider"


@pytest.mark.slow
def test_the_pinned_provider_is_the_one_whose_schema_is_served(provider):
    pinned = re.search(r'version = "([\d.]+)"', (CONFIGURATION / "versions.tf").read_text())[1]
    assert pinned == provider["version"]


@pytest.mark.slow
def test_the_configuration_matches_the_providers_schema(terraform):
    assert json.loads(terraform("validate", "-json"))["diagnostics"] == []


@pytest.mark.slow
def test_the_schema_catches_what_it_claims_to(terraform, tmp_path):
    shutil.copytree(terraform.folder, tmp_path / "wrong", ignore=shutil.ignore_patterns("*.tfstate*"), symlinks=True)
    wrong = replace(terraform, folder=tmp_path / "wrong")
    (wrong.folder / "mistakes.tf").write_text(MISTAKES)
    diagnostics = json.loads(wrong.run("validate", "-json").stdout)["diagnostics"]
    said = {item["snippet"]["context"].split('"')[3]: f"{item['summary']}: {item['detail']}" for item in diagnostics}
    assert said.keys() == {"misspelt", "argument", "type", "missing", "read_only"}
    assert "does not support resource type" in said["misspelt"]
    assert 'Did you mean "bucket"?' in said["argument"]
    assert "string required" in said["type"]
    assert "is required" in said["missing"]
    assert "arn is read-only" in said["read_only"]


@pytest.mark.slow
def test_terraforms_own_tests_pass(stacks):
    stack = stacks["dev"]
    stack.terraform("test", *stack.arguments())


@pytest.mark.slow
def test_environments_differ_in_size_and_not_in_kind(dev, prod):
    counts = [
        {kind: len(found) for kind, found in deployment.resources.items() if kind != "aws_sagemaker_pipeline"}
        for deployment in (dev, prod)
    ]
    assert counts[0] == counts[1]
    assert {schedule["state"] for schedule in dev.all("aws_scheduler_schedule")} == {"DISABLED"}
    assert {schedule["state"] for schedule in prod.all("aws_scheduler_schedule")} == {"ENABLED"}


@pytest.mark.slow
def test_a_schedule_names_the_night_and_gives_up_soon(prod):
    (schedule,) = prod.all("aws_scheduler_schedule")
    (target,) = schedule["target"]
    assert target["input"] == '{"scheduled":"<aws.scheduler.scheduled-time>"}'
    assert target["retry_policy"][0]["maximum_retry_attempts"] <= 5
    (queue,) = prod.all("aws_sqs_queue")
    assert target["dead_letter_config"][0]["arn"] == queue["arn"]
    alarm = next(a for a in prod.all("aws_cloudwatch_metric_alarm") if a["namespace"] == "AWS/SQS")
    assert alarm["dimensions"] == {"QueueName": queue["name"]}


@pytest.mark.slow
def test_an_alarm_is_what_its_request_says(prod, stacks):
    """Every request of the generated catalogue, with what Terraform adds: the namespace, the name's prefix, the topic."""
    requests = json.loads((stacks["prod"].folder / "monitoring" / "alarms.json").read_text())
    alarms = {alarm["alarm_name"]: alarm for alarm in prod.all("aws_cloudwatch_metric_alarm")}
    assert alarms.keys() == {
        f"srl-rlvr-prod-{name}" for name in ("schedule-failed", *(r["AlarmName"] for r in requests))
    }
    for request in requests:
        alarm = alarms[f"srl-rlvr-prod-{request['AlarmName']}"]
        queries = {query["id"]: query for query in alarm["metric_query"] or []}
        if "MetricName" in request:
            assert (alarm["metric_name"], alarm["namespace"]) == (request["MetricName"], "SrlRlvr/srl-rlvr-prod")
            assert (alarm["dimensions"] or {}) == {item["Name"]: item["Value"] for item in request["Dimensions"]}
            assert alarm["period"] == request["Period"]
            assert alarm["statistic"] == request.get("Statistic")
            assert alarm["extended_statistic"] == request.get("ExtendedStatistic")
        else:
            assert queries["filled"]["expression"] == "FILL(beats, 0)" and queries["filled"]["return_data"]
            (beats,) = queries["beats"]["metric"]
            assert (beats["metric_name"], beats["namespace"]) == ("NightlyHeartbeat", "SrlRlvr/srl-rlvr-prod")
        for name in ("ComparisonOperator", "EvaluationPeriods", "DatapointsToAlarm", "Threshold", "TreatMissingData"):
            assert alarm[re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()] == request[name]
        assert alarm["alarm_description"] == request["AlarmDescription"]
    assert all(alarm["alarm_actions"] and alarm["actions_enabled"] is not False for alarm in alarms.values())


@pytest.mark.slow
def test_a_missing_night_is_no_alarm_where_nights_are_started_by_hand(dev):
    muted = [a["alarm_name"] for a in dev.all("aws_cloudwatch_metric_alarm") if a["actions_enabled"] is False]
    assert muted == ["srl-rlvr-dev-night-missing"]


@pytest.mark.slow
def test_a_dashboard_shows_this_environments_metrics(prod):
    dashboards = {page["dashboard_name"]: page["dashboard_body"] for page in prod.all("aws_cloudwatch_dashboard")}
    assert dashboards.keys() == {
        f"srl-rlvr-prod-{name}" for name in ("pipeline", "cost", "training", "tiers", "quality")
    }
    assert not any("${" in body for body in dashboards.values())
    machines = {machine["arn"] for machine in prod.all("aws_sfn_state_machine")}
    (group,) = prod.all("aws_scheduler_schedule_group")
    (queue,) = prod.all("aws_sqs_queue")
    seen = set()
    for body in dashboards.values():
        for widget in json.loads(body)["widgets"]:
            assert widget["properties"]["region"] == "us-east-1"
            for namespace, *words in (row for row in widget["properties"]["metrics"] if isinstance(row[0], str)):
                seen.add(namespace)
                named = dict(zip(words[1::2], words[2::2], strict=False))
                assert named.get("ScheduleGroup", group["name"]) == group["name"]
                assert named.get("QueueName", queue["name"]) == queue["name"]
                if namespace == "AWS/States":
                    assert named["StateMachineArn"].endswith(":stateMachine:srl-rlvr-prod-nightly")
                    assert named["StateMachineArn"].rpartition(":")[0] in {arn.rpartition(":")[0] for arn in machines}
    assert seen == {"SrlRlvr/srl-rlvr-prod", "AWS/States", "AWS/Scheduler", "AWS/SQS"}


@pytest.mark.slow
def test_behind_the_estimate_are_a_budget_and_the_cost_anomalies(prod):
    (budget,) = prod.all("aws_budgets_budget")
    assert {note["notification_type"] for note in budget["notification"]} == {"ACTUAL", "FORECASTED"}
    (subscription,) = prod.all("aws_ce_anomaly_subscription")
    (monitor,) = prod.all("aws_ce_anomaly_monitor")
    assert subscription["monitor_arn_list"] == [monitor["arn"]]
    (dimension,) = subscription["threshold_expression"][0]["dimension"]
    assert (dimension["key"], dimension["values"]) == ("ANOMALY_TOTAL_IMPACT_PERCENTAGE", ["20"])
    (alerts,) = (topic["arn"] for topic in prod.all("aws_sns_topic") if topic["name"].endswith("-alerts"))
    assert {note["subscriber_sns_topic_arns"][0] for note in budget["notification"]} == {alerts}
    assert subscription["subscriber"][0]["address"] == alerts


@pytest.mark.slow
def test_buckets_refuse_requests_without_tls(prod):
    policies = [json.loads(policy["policy"])["Statement"] for policy in prod.all("aws_s3_bucket_policy")]
    assert len(policies) == len(prod.all("aws_s3_bucket"))
    for statements in policies:
        (deny,) = (statement for statement in statements if statement["Effect"] == "Deny")
        assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        assert (deny["Action"], deny["Principal"]) == ("s3:*", "*")


@pytest.mark.slow
def test_nothing_reaches_a_job_from_outside_and_only_https_leaves_it(prod):
    groups = {group["id"]: group["name"] for group in prod.all("aws_security_group")}
    inward = prod.all("aws_vpc_security_group_ingress_rule")
    assert all(rule["referenced_security_group_id"] in groups and not rule["cidr_ipv4"] for rule in inward)
    outward = [rule for rule in prod.all("aws_vpc_security_group_egress_rule") if rule["cidr_ipv4"]]
    assert {(rule["from_port"], rule["to_port"]) for rule in outward} == {(443, 443)}
    assert not any(subnet["map_public_ip_on_launch"] for subnet in prod.all("aws_subnet"))
