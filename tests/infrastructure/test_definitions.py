"""Compiled pipeline definitions, as Terraform deploys them, and those that it refuses."""

import json
import re

import pytest
import yaml
from deployment import PROJECT, TOY, leaves

from components.shared.selection.prices import load_prices
from pipelines.operations.costs import at_most_usd

pytestmark = pytest.mark.slow


def job(definition, name):
    return next(step["Arguments"] for step in leaves(definition["Steps"]) if step["Name"] == name)


def nested(definition):
    """Conditions within conditions, deeper than the rules look."""
    steps = definition["Steps"]
    for level in range(5):
        steps.append({"Name": f"gate-{level}", "Type": "Condition", "Arguments": {"IfSteps": [], "ElseSteps": []}})
        steps = steps[-1]["Arguments"]["IfSteps"]


FORBIDDEN = {
    "srl: no network isolation": lambda d: job(d, "srl").update(EnableNetworkIsolation=False),
    "srl: no encryption between": lambda d: job(d, "srl").pop("EnableInterContainerTrafficEncryption"),
    "srl: not in this account's network": lambda d: job(d, "srl").pop("VpcConfig"),
    "srl: not in this account's groups": lambda d: job(d, "srl")["VpcConfig"].update(SecurityGroupIds=["sg-0"]),
    "srl: output without this account's key": lambda d: job(d, "srl")["OutputDataConfig"].update(KmsKeyId="other"),
    "srl: volume without this account's key": lambda d: job(d, "srl")["ResourceConfig"].update(VolumeKmsKeyId="key"),
    "srl: no limit on its time": lambda d: job(d, "srl")["StoppingCondition"].pop("MaxRuntimeInSeconds"),
    "srl: Spot without a checkpoint": lambda d: job(d, "srl").pop("CheckpointConfig"),
    "srl: Spot that never waits": lambda d: job(d, "srl")["StoppingCondition"].update(MaxWaitTimeInSeconds=1),
    "srl: role of no stage": lambda d: job(d, "srl").update(RoleArn="arn:aws:iam::111122223333:role/admin"),
    "verification: not in this account's network": lambda d: job(d, "verification").pop("NetworkConfig"),
    "verification: no limit on its time": lambda d: job(d, "verification").pop("StoppingCondition"),
    "register-gold: output without": lambda d: job(d, "register-gold")["ProcessingOutputConfig"].pop("KmsKeyId"),
    "register-gold: volume without": lambda d: job(d, "register-gold")["ProcessingResources"]["ClusterConfig"].pop(
        "VolumeKmsKeyId"
    ),
    "tune: a Tuning step, which has no rules": lambda d: d["Steps"].append(
        {"Name": "tune", "Type": "Tuning", "Arguments": {}}
    ),
    "nested too deep": nested,
}


def test_every_unsafe_definition_is_refused_with_its_reason(stacks, prod, tmp_path):
    compiled = stacks["prod"].folder / "sagemaker"
    safe = (compiled / "post_training-gold.sagemaker.json").read_text()
    request = (compiled / "post_training-gold.sagemaker.request.json").read_text()
    for number, change in enumerate(FORBIDDEN.values()):
        definition = json.loads(safe)
        change(definition)
        (tmp_path / f"unsafe_{number}.sagemaker.json").write_text(json.dumps(definition))
        (tmp_path / f"unsafe_{number}.sagemaker.request.json").write_text(request)
    (tmp_path / "safe.sagemaker.json").write_text(safe)
    (tmp_path / "safe.sagemaker.request.json").write_text(request)
    plan = stacks["prod"].plan(definitions_dir=tmp_path)
    assert plan.returncode == 1, plan.stdout
    refusals = dict(re.findall(r"Definition (\S+) may not be deployed: (.+?)\.(?= |$)", one_line(plan.stderr)))
    assert refusals.keys() == {f"unsafe-{number}" for number in range(len(FORBIDDEN))}
    for number, reason in enumerate(FORBIDDEN):
        assert reason in refusals[f"unsafe-{number}"]


def one_line(diagnostics):
    """Terraform breaks its messages at 78 characters."""
    return " ".join(diagnostics.replace("│", " ").split())


def test_a_call_that_no_policy_knows_is_refused(stacks, prod, tmp_path):
    machine = json.loads((TOY / "step_functions" / "nightly.asl.json").read_text())
    machine["States"]["Start"]["Resource"] = "arn:aws:states:::aws-sdk:iam:createUser"
    (tmp_path / "nightly.asl.json").write_text(json.dumps(machine))
    plan = stacks["prod"].plan(state_machines_dir=tmp_path)
    assert plan.returncode == 1
    assert "calls iam:createUser: allow it in access.tf" in one_line(plan.stderr)


def test_a_schedule_without_its_machine_is_refused(stacks, prod, tmp_path):
    plan = stacks["prod"].plan(state_machines_dir=tmp_path)
    assert plan.returncode == 1
    assert "Schedule nightly starts nightly, which" in one_line(plan.stderr)


def test_pipelines_are_deployed_as_compiled(stacks, prod):
    deployed = {pipeline["pipeline_name"]: pipeline for pipeline in prod.all("aws_sagemaker_pipeline")}
    requests = list((stacks["prod"].folder / "sagemaker").glob("*.request.json"))
    assert len(deployed) == len(requests) == 13
    for file in requests:
        request = json.loads(file.read_text())
        pipeline = deployed[request["PipelineName"]]
        definition = file.with_name(file.name.replace(".request", "")).read_text()
        assert pipeline["pipeline_definition"] == definition
        assert pipeline["role_arn"] == request["RoleArn"] == prod.roles["pipeline"].arn
        assert pipeline["tags"] == {tag["Key"]: tag["Value"] for tag in request["Tags"]}


def test_what_an_execution_costs_at_most_is_one_number_for_the_plan_and_for_the_night(prod):
    prices, found = load_prices(), prod.outputs["at_most_usd"]
    deployed = prod.all("aws_sagemaker_pipeline")
    expected = {
        pipeline["pipeline_name"].removeprefix("srl-rlvr-"): at_most_usd(
            json.loads(pipeline["pipeline_definition"]), prices
        )
        for pipeline in deployed
    }
    assert found == {name: pytest.approx(usd) for name, usd in expected.items()}
    assert found["post-training-silver-on-demand"] > 2000


def test_a_second_plan_changes_nothing(stacks, prod):
    plan = stacks["prod"].plan("-detailed-exitcode")
    assert plan.returncode == 0, plan.stdout + plan.stderr


def test_each_tier_has_its_job_templates(prod):
    templates = prod.outputs["job_templates"]
    machines = {
        tier: templates[f"post-training-{tier}"]["srl"]["ResourceConfig"]["InstanceType"]
        for tier in ("bronze", "silver", "gold")
    }
    tiers = {tier: yaml.safe_load((PROJECT / "configs" / "tiers" / f"{tier}.yaml").read_text()) for tier in machines}
    assert machines == {tier: settings["jobs"]["training"]["instance_type"] for tier, settings in tiers.items()}
    assert templates["post-training-gold"]["srl"]["EnableManagedSpotTraining"] is True


def test_the_rules_know_which_instances_have_drives_of_their_own():
    text = (PROJECT / "infrastructure/terraform/modules/sagemaker-training/rules.tf").read_text()
    local_disks = re.compile(re.search(r'local_disks = "(.+)"', text)[1].replace("\\\\", "\\"))
    known = yaml.safe_load((PROJECT / "configs" / "instances.yaml").read_text())["instances"]
    assert {name for name in known if local_disks.match(name)} == {
        name for name, instance in known.items() if instance.get("nvme_gib")
    }


def test_every_steps_role_may_read_its_inputs_and_write_its_outputs(prod):
    roles = {role.arn: role for role in prod.roles.values()}
    checked, every = set(), set()
    for pipeline in prod.all("aws_sagemaker_pipeline"):
        definition = json.loads(pipeline["pipeline_definition"])
        jobs = {step["Name"]: step["Arguments"] for step in leaves(definition["Steps"])}
        every |= jobs.keys()
        for name, arguments in jobs.items():
            for action, uri in transfers(arguments):
                arn = resolved(uri, jobs).replace("s3://", "arn:aws:s3:::") + "/x"
                assert roles[arguments["RoleArn"]].allows(action, arn), f"{name} may not {action} {arn}"
                checked.add(name)
    # The jobs that are no stages read and write S3 by themselves: test_iam_policies.py.
    assert checked == every - {"selection", "trace-collection", "serving-drift"}


def transfers(arguments):
    """(action, URI) of everything that a job reads or writes."""
    for channel in arguments.get("InputDataConfig", []):
        yield "s3:GetObject", channel["DataSource"]["S3DataSource"]["S3Uri"]
    for item in arguments.get("ProcessingInputs", []):
        yield "s3:GetObject", item["S3Input"]["S3Uri"]
    for item in arguments.get("ProcessingOutputConfig", {}).get("Outputs", []):
        yield "s3:PutObject", item["S3Output"]["S3Uri"]
    if "OutputDataConfig" in arguments:
        yield "s3:PutObject", arguments["OutputDataConfig"]["S3OutputPath"]
    if "CheckpointConfig" in arguments:
        yield "s3:PutObject", arguments["CheckpointConfig"]["S3Uri"]
        yield "s3:GetObject", arguments["CheckpointConfig"]["S3Uri"]


PARAMETERS = {
    "traces_uri": "s3://srl-rlvr-prod/traces/collected/2026-01-01",
    "model_type": "npc_dialogue",
    "night": "2026-01-01",
    "dataset_uri": "s3://srl-rlvr-prod/srl-rlvr/runs/post-training-silver/e/data-validation/dataset",
}


def resolved(value, jobs):
    """A URI as an execution would have it: policies come from the registry, references from the job referred to."""
    if isinstance(value, str):
        return value
    if "Std:Join" in value:
        join = value["Std:Join"]
        return join["On"].join(resolved(part, jobs) for part in join["Values"])
    kind, name, *path = value["Get"].split(".", 2)
    if kind == "Parameters":
        return PARAMETERS.get(name, "s3://srl-rlvr-prod/mlflow/1/run/artifacts/policy")
    if kind == "Steps" and path[0] == "OutputDataConfig.S3OutputPath":
        return resolved(jobs[name]["OutputDataConfig"]["S3OutputPath"], jobs)
    if kind == "Steps" and path[0].startswith("ProcessingOutputConfig"):
        output = re.search(r"\['(\w+)'\]", path[0])[1]
        outputs = {
            item["OutputName"]: item["S3Output"]["S3Uri"] for item in jobs[name]["ProcessingOutputConfig"]["Outputs"]
        }
        return resolved(outputs[output], jobs)
    return "id"
