"""What AWS would answer, in AWS's formats: what policies and references are made of once a configuration is applied."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ARNS = {
    "aws_cloudwatch_log_group": "logs:{here}:log-group:{name}",
    "aws_cloudwatch_metric_alarm": "cloudwatch:{here}:alarm:{alarm_name}",
    "aws_ecr_repository": "ecr:{here}:repository/{name}",
    "aws_iam_role": "iam::{account}:role/{name}",
    "aws_kms_key": "kms:{here}:key/{key_id}",
    "aws_s3_bucket": "s3:::{bucket}",
    "aws_sagemaker_mlflow_tracking_server": "sagemaker:{here}:mlflow-tracking-server/{tracking_server_name}",
    "aws_sagemaker_model_package_group": "sagemaker:{here}:model-package-group/{model_package_group_name}",
    "aws_sagemaker_pipeline": "sagemaker:{here}:pipeline/{pipeline_name}",
    "aws_secretsmanager_secret": "secretsmanager:{here}:secret:{name}-AbCdEf",
    "aws_sfn_state_machine": "states:{here}:stateMachine:{name}",
    "aws_sns_topic": "sns:{here}:{name}",
    "aws_sqs_queue": "sqs:{here}:{name}",
}
"""Resource type -> its ARN after `arn:aws:`; a type that is missing has an ARN that says so."""
IDENTIFIERS = {
    "aws_ecr_repository": "name",
    "aws_iam_role": "name",
    "aws_kms_key": "key_id",
    "aws_s3_bucket": "bucket",
    "aws_sfn_state_machine": "arn",
    "aws_sns_topic": "arn",
}
"""Resource type -> the attribute that its id repeats, where the id is not of AWS's own making."""

PREFIXES = {"aws_security_group": "sg", "aws_subnet": "subnet", "aws_vpc": "vpc"}
"""Resource type -> what its ids begin with, where something is read from that."""
DATA_SOURCES: dict[str, dict[str, Any]] = {"aws_partition": {"partition": "aws", "dns_suffix": "amazonaws.com"}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """The account and region that the provider is configured for."""

    id: str
    region: str

    def resource(
        self, kind: str, known: Mapping[str, Any], unknown: Mapping[str, Any], identity: str
    ) -> dict[str, Any]:
        """Values for a new resource's `unknown` attributes (name -> type); `identity` is unique to the resource."""
        values = {name: _value(type_, f"{kind}-{name}-{identity}") for name, type_ in unknown.items()}
        if "id" in unknown:
            values["id"] = f"{PREFIXES.get(kind, kind)}-{identity}"
        facts = {**values, **{name: value for name, value in known.items() if value is not None}}
        if "arn" in unknown:
            path = ARNS.get(kind, kind + ":{here}:unspecified/{id}")
            here = f"{self.region}:{self.id}"
            facts["arn"] = values["arn"] = "arn:aws:" + path.format(here=here, account=self.id, **facts)
        if "id" in unknown and kind in IDENTIFIERS:
            values["id"] = facts[IDENTIFIERS[kind]]
        return values

    def data_source(self, kind: str, unknown: Mapping[str, Any]) -> dict[str, Any]:
        """Values for a data source's `unknown` attributes (name -> type)."""
        values = {name: _value(type_, f"{kind}-{name}") for name, type_ in unknown.items()}
        return values | DATA_SOURCES.get(kind, {})


def _value(type_: Any, text: str) -> Any:
    if isinstance(type_, list):
        return {"list": [], "set": [], "map": {}}.get(type_[0])
    return {"number": 0, "bool": False}.get(type_, text)
