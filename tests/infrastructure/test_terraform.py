"""The configuration as a whole, schema-checked: the AWS provider itself needs a network, and AWS an account."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from deployment import CONFIGURATION, TOY

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
def test_an_alarm_is_what_its_request_says(prod):
    requests = json.loads((TOY / "monitoring" / "alarms.json").read_text())
    alarms = {alarm["alarm_name"]: alarm for alarm in prod.all("aws_cloudwatch_metric_alarm")}
    single, combined = (alarms[f"srl-rlvr-prod-{request['AlarmName']}"] for request in requests)
    assert (single["metric_name"], single["namespace"]) == ("EstimatedJobCostUSD", "SrlRlvr/srl-rlvr-prod")
    assert single["dimensions"] == {"Tier": "gold"}
    queries = {query["id"]: query for query in combined["metric_query"]}
    assert queries["share"]["expression"] == "100 * failed / started"
    assert queries["failed"]["metric"][0]["dimensions"] == {"Tier": "bronze"}
    assert all(alarm["alarm_actions"] for alarm in alarms.values())


@pytest.mark.slow
def test_a_dashboard_shows_this_environments_metrics(prod):
    (dashboard,) = prod.all("aws_cloudwatch_dashboard")
    (widget,) = json.loads(dashboard["dashboard_body"])["widgets"]
    assert widget["properties"]["metrics"][0][0] == "SrlRlvr/srl-rlvr-prod"


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
