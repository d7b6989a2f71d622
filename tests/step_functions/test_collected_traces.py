"""What the collector of traces has noted for a night stands; otherwise the night's verified trajectories are noted."""

import json

import pytest
from aws_account import BINDINGS, aws_account
from fault_scripts import MODEL, NIGHT
from pipeline_runs import Course

RUN = {"night": NIGHT, "attempt": 1, "dag": "post_training", "model_type": MODEL, "tier": "gold", "alone": False}
KEY = f"{BINDINGS['nights']}/state/{MODEL}/traces.json"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noted", "stands"),
    [
        (None, False),
        ({"uri": "s3://srl-rlvr-prod/old/", "night": NIGHT, "execution": "e"}, False),
        ({"uri": "s3://srl-rlvr-prod/old/", "night": "2000-01-01", "stage": "trace_collection"}, False),
        ({"uri": "s3://srl-rlvr-prod/collected/", "night": NIGHT, "stage": "trace_collection"}, True),
    ],
)
def test_collected_traces_of_the_night_go_before_the_verified_trajectories(noted, stands):
    with aws_account() as account:
        account.pipelines.courses["post_training-gold", MODEL] = [Course()]
        s3 = account.client("s3")
        if noted:
            s3.put_object(Bucket=BINDINGS["bucket"], Key=KEY, Body=json.dumps(noted))
        account.end(account.start("training-run", RUN, "run"))
        found = json.loads(s3.get_object(Bucket=BINDINGS["bucket"], Key=KEY)["Body"].read())
    if stands:
        assert found == noted
    else:
        assert found["night"] == NIGHT and found["uri"].rstrip("/").endswith("verified")
