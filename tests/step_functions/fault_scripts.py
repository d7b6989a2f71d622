"""Nights on which something goes wrong, and how each must end.

A script arranges an account in which yesterday's versions serve, runs the night of a Tuesday, on which no Bronze is due, and
names the end: promoted, refused (the champion kept), stale or failed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aws_account import AwsAccount, Fault
from pipeline_runs import COLLECTION, Course

from components.shared.contracts.records import Outcome

NIGHT = "2026-01-06"
MODEL = "npc_dialogue"
PIPELINES = ("post_training-silver", "post_training-gold", "distillation-silver", "distillation-gold")
FOR_GOOD = 200
"""More errors in a row than any retries outlast."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    end: str
    arrange: Callable[[AwsAccount], object]
    promotes: int | None = None
    """Versions promoted, where they are not those of all four runs of a promoted night, and none of another."""
    packages: int | None = None
    """Versions packaged, where they are not as many as promoted."""
    executions: int = 4
    """Pipeline executions started that train."""
    flights: int = 0
    """Flights left for the next night to take over."""
    reports: int = 1
    """Messages on the reports topic; 0 where it takes none."""
    settings: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    says: str = ""
    """Text that the report holds."""


def course(pipeline: str, *courses: Course) -> Callable[[AwsAccount], object]:
    return lambda account: account.pipelines.courses.update({(pipeline, MODEL): list(courses)})


def everywhere(**facts: Any) -> Callable[[AwsAccount], object]:
    """Every execution takes the same course, however often it is tried."""
    return lambda account: account.pipelines.courses.update(
        {(name, MODEL): [Course(**facts)] * 9 for name in PIPELINES}
    )


def collection(**facts: Any) -> Callable[[AwsAccount], object]:
    return course(COLLECTION, Course(**facts))


def calls(name: str, *faults: Fault | None) -> Callable[[AwsAccount], object]:
    return lambda account: account.script.update({name: list(faults)})


def both(*arrange: Callable[[AwsAccount], object]) -> Callable[[AwsAccount], object]:
    return lambda account: [step(account) for step in arrange]


def no_capacity(pipeline: str) -> Callable[[AwsAccount], object]:
    """None on Spot, and none on demand."""
    return both(*(course(name, *[CAPACITY] * 3) for name in (pipeline, f"{pipeline}-on-demand")))


def approved_by_hand(account: AwsAccount) -> None:
    meanwhile = Course(meanwhile=lambda: account.add_version("gold"))
    account.pipelines.courses["post_training-gold", MODEL] = [meanwhile]


def bronze_failed(account: AwsAccount) -> None:
    record = {"night": "2026-01-05", "attempt": 1, "outcome": "failed", "detail": "srl: out of memory"}
    account.put_record(f"state/{MODEL}/last/post_training-bronze.json", record)


def bronze_in_training(account: AwsAccount) -> None:
    account.put_record(f"state/{MODEL}/flights/bronze.json", {"owner": "another", "night": "2026-01-05"})


def abandoned(account: AwsAccount) -> None:
    """A night that was aborted left a run behind, started, whose owner Step Functions does not know any more."""
    champion = account.champion("gold")
    values = {"champion_uri": "s3://b/p/", "model_type": MODEL, "night": "2026-01-05", "seed": "20458"}
    request = {
        "PipelineName": "srl-rlvr-post-training-gold",
        "PipelineParameters": [{"Name": name, "Value": value} for name, value in values.items()],
    }
    flight = {
        "night": "2026-01-05", "attempt": 1, "owner": "arn:aws:states:us-east-1:123456789012:execution:srl-rlvr-prod-x:gone",
        "dag": "post_training", "pipeline": request["PipelineName"], "token": "0" * 64,
        "parameters": request["PipelineParameters"], "champion": champion, "alert": None, "tries": 1, "takeovers": 0,
        "teacher": {"package": None, "stale": False, "reason": None},
        "execution": account.pipelines.start(request)["PipelineExecutionArn"],
    }  # fmt: skip
    account.put_record(f"state/{MODEL}/flights/gold.json", flight)


CODE = Course(end="Failed", reason="ClientError: ValueError: reward is nan, exit code 1")
CAPACITY = Course(end="Failed", reason="CapacityError: Unable to provision requested ML compute capacity.")
SPOT = Course(end="Failed", fails_at="rlvr", reason="MaxWaitTimeExceeded: Job did not complete within MaxWaitTime")
SERVICE = Course(
    end="Failed",
    fails_at="distill-gold",
    reason="InternalServerError: We encountered an internal error. Please try again.",
)
DENIED = Fault(code="AccessDeniedException", message="not authorized", status=403)
DOWN = Fault(code="InternalFailure", message="We encountered an internal error", status=500)
LOST = Fault(code="RequestTimeout", message="Your socket connection timed out", status=500, done=True)
QUOTA = Fault(code="ResourceLimitExceeded", message="quota of ml.g6.12xlarge is 0")
POOR = "{'bronze': 30000, 'silver': 2000, 'gold': 100}"
"""Budgets under which nothing may go on demand."""
START, LOOK = "sagemaker:start_pipeline_execution", "sagemaker:describe_pipeline_execution"
PACKAGE, APPROVE = "sagemaker:create_model_package", "sagemaker:update_model_package"
LIST, PUBLISH = "sagemaker:list_model_packages", "sns:publish"
PUT = "s3:put_object"


def nothing(account: AwsAccount) -> None:
    pass


SCRIPTS = {
    "nothing goes wrong": Script(
        end="promoted", arrange=nothing, says=f"srl-rlvr report --nightly --night {NIGHT} --env prod"
    ),
    "every gate refuses": Script(end="refused", arrange=everywhere(accepted=False)),
    "one gate refuses": Script(end="promoted", arrange=course("distillation-gold", Course(accepted=False)), promotes=3),
    "starts are throttled": Script(end="promoted", arrange=calls(START, *[Fault()] * 4)),
    "a start's answer is lost": Script(end="promoted", arrange=calls(START, LOST, LOST)),
    "the quota is used up for a while": Script(end="promoted", arrange=calls(START, QUOTA, QUOTA)),
    "the quota is used up": Script(
        end="failed", arrange=calls(START, *[QUOTA] * FOR_GOOD), executions=0, says="ResourceLimitExceeded"
    ),
    "starts are not allowed": Script(
        end="failed", arrange=calls(START, *[DENIED] * FOR_GOOD), executions=0, flights=2, says="not authorized"
    ),
    "a pipeline is not deployed": Script(
        end="failed", promotes=3, executions=3, says="does not exist",
        arrange=lambda account: account.pipelines.missing.add("distillation-gold"),
    ),
    "polls are throttled": Script(end="promoted", arrange=calls(LOOK, *[Fault(), None] * 5)),
    "polls fail for good": Script(end="failed", arrange=calls(LOOK, *[DOWN] * FOR_GOOD), executions=2, flights=2),
    "training fails by a fault of ours": Script(
        end="failed", arrange=course("post_training-gold", CODE), promotes=3, says="srl: ClientError: ValueError"
    ),
    "capacity comes late": Script(end="promoted", arrange=course("post_training-gold", CAPACITY, Course())),
    "capacity never comes": Script(
        end="failed", arrange=no_capacity("post_training-gold"), promotes=3, executions=5, says="CapacityError"
    ),
    "only Spot has no capacity": Script(
        end="promoted", arrange=course("post_training-gold", *[CAPACITY] * 3), executions=5, says="h, on demand)"
    ),
    "Spot is lost": Script(
        end="promoted", arrange=course("post_training-silver", SPOT), executions=5, says="h, on demand)"
    ),
    "Spot is lost and the fallback's start is answered to nobody": Script(
        end="promoted", arrange=both(course("post_training-gold", SPOT), calls(START, None, None, None, LOST)), executions=5
    ),
    "Spot is lost and comes back, on demand being over the budget": Script(
        end="promoted", arrange=course("post_training-silver", SPOT, Course()), settings={"budgets_usd": POOR}
    ),
    "Spot is lost for good, on demand being over the budget": Script(
        end="failed", arrange=course("post_training-silver", *[SPOT] * 3), promotes=3, settings={"budgets_usd": POOR},
        says="on demand it would cost up to 2600 USD, the budget is 2000",
    ),
    "Spot is lost where nobody priced the fallback": Script(
        end="failed", arrange=course("post_training-silver", *[SPOT] * 3), promotes=3, settings={"at_most_usd": "{}"},
        says="rlvr: MaxWaitTimeExceeded",
    ),
    "on demand fails by a fault of ours": Script(
        end="failed", promotes=3, executions=5, says="srl: ClientError: ValueError",
        arrange=both(course("post_training-gold", SPOT), course("post_training-gold-on-demand", CODE)),
    ),
    "the service fails a job": Script(end="promoted", arrange=course("distillation-gold", SERVICE, SERVICE, Course())),
    "somebody stops an execution": Script(
        end="failed", arrange=course("post_training-silver", Course(end="Stopped")), promotes=3, says="stopped by hand"
    ),
    "an execution is stuck": Script(
        end="failed", arrange=course("post_training-silver", Course(end="Executing")), promotes=3,
        settings={"polls": 4}, says="stuck: stopped after",
    ),
    "an execution is stuck and does not stop": Script(
        end="failed", arrange=course("post_training-silver", Course(end="Executing", heeds_stop=False)),
        promotes=2, executions=3, flights=1, settings={"polls": 4}, says="it does not stop either",
    ),
    "a registration fails": Script(
        end="failed", promotes=3, says="register-gold",
        arrange=course("distillation-gold", Course(end="Failed", fails_at="register-gold", reason="MLflow: 500")),
    ),
    "a registration leaves no report": Script(
        end="failed", arrange=course("distillation-gold", Course(report=False)), promotes=3, flights=1
    ),
    "a registration finds another champion": Script(
        end="stale", arrange=course("distillation-gold", Course(outcome=Outcome.STALE)), promotes=3, packages=4
    ),
    "a package's answer is lost": Script(end="promoted", arrange=calls(PACKAGE, LOST, Fault())),
    "packages are not taken": Script(
        end="failed", arrange=calls(PACKAGE, *[DOWN] * FOR_GOOD), promotes=0, executions=2, flights=2
    ),
    "somebody promotes by hand meanwhile": Script(end="stale", arrange=approved_by_hand, promotes=3, packages=4),
    "a promotion's answer is lost": Script(end="promoted", arrange=calls(APPROVE, LOST)),
    "a promotion fails": Script(
        end="failed", arrange=both(everywhere(accepted=False), course("distillation-gold"), calls(APPROVE, *[DOWN] * 7)),
        promotes=0, packages=1, says="was rolled back",
    ),
    "a promotion fails half-way": Script(
        end="failed", arrange=both(everywhere(accepted=False), course("distillation-gold"), calls(APPROVE, *[LOST] * 7)),
        promotes=0, packages=1, says="was rolled back",
    ),
    "a promotion fails after another": Script(
        end="failed", says="was rolled back", promotes=1, packages=2,
        arrange=both(
            everywhere(accepted=False), course("distillation-silver"), course("distillation-gold"),
            calls(APPROVE, None, *[DOWN] * 7),
        ),
    ),
    "a roll-back fails too": Script(
        end="failed", arrange=both(everywhere(accepted=False), course("distillation-gold"), calls(APPROVE, *[DOWN] * 99)),
        promotes=0, packages=1, says="could not be rolled back",
    ),
    "promotion is for a person": Script(
        end="promoted", arrange=nothing, promotes=0, packages=4, settings={"promotion": "manual"}, says="srl-rlvr promote"
    ),
    "Bronze failed": Script(end="stale", arrange=bronze_failed, promotes=4, says="stale teacher: bronze failed"),
    "Bronze is still training": Script(
        end="promoted", arrange=bronze_in_training, flights=1, says="stale teacher: bronze is still training"
    ),
    "an aborted night left a run": Script(end="promoted", arrange=abandoned, says="post_training npc_dialogue gold"),
    "traces are spoilt": Script(
        end="failed", arrange=both(everywhere(accepted=False, traces=False), collection(served=False)), promotes=0,
        executions=2, says="have no manifest: collect them again",
    ),
    "collected traces are spoilt": Script(
        end="failed", arrange=collection(traces=False), promotes=2, executions=2,
        says="traces/collected/npc_dialogue/night=2026-01-06/ have no manifest: collect them again",
    ),
    "production answered nothing yet": Script(
        end="promoted", arrange=collection(served=False),
        says="collection npc_dialogue bronze: skipped: no traces under s3://srl-rlvr-prod/traces/served; distillation",
    ),
    "the collection fails": Script(
        end="stale", arrange=collection(end="Failed", fails_at="trace-collection", reason="AlgorithmError: exit code 1"),
        promotes=4, says="distilled from the verified trajectories: trace-collection: AlgorithmError",
    ),
    "the collection hangs": Script(
        end="stale", arrange=collection(end="Executing", fails_at="trace-collection"), promotes=4, says="stuck, stopped",
    ),
    "the collection is throttled for a while": Script(end="promoted", arrange=calls(START, *[Fault()] * 6)),
    "the collection is throttled for good": Script(
        end="stale", arrange=calls(START, *[Fault()] * 7), promotes=4, says="traces were not collected",
    ),
    "the collection is not deployed": Script(
        end="stale", arrange=lambda account: account.pipelines.missing.add("collection"), promotes=4,
        says="pipeline srl-rlvr-collection does not exist",
    ),
    "the collected traces cannot be noted": Script(
        end="stale", arrange=calls(PUT, None, *[DOWN] * 7), promotes=4, says="traces were not collected",
    ),
    "what serves has drifted": Script(
        end="stale", arrange=collection(drift=0.4), promotes=4, says="gold has drifted: what is asked has moved by 0.40",
    ),
    "whether what serves has drifted is not known": Script(
        end="stale", arrange=collection(end="Failed", fails_at="serving-drift", reason="AlgorithmError: exit code 1"),
        promotes=4, says="whether what serves has drifted is not known: serving-drift: AlgorithmError",
    ),
    "metrics are not taken": Script(
        end="promoted", arrange=calls("cloudwatch:put_metric_data", *[DENIED] * FOR_GOOD)
    ),
    "the lock's answer is lost": Script(end="promoted", arrange=calls(PUT, LOST, LOST, LOST)),
    "the night cannot be claimed": Script(
        end="failed", arrange=both(calls(PUT, *[DOWN] * 3)), executions=0, says="could not be claimed"
    ),
    "requests cannot be listed": Script(end="promoted", arrange=calls("s3:list_objects_v2", *[DOWN] * 7)),
    "the report is throttled": Script(end="promoted", arrange=calls(PUBLISH, Fault(), Fault())),
    "the reports topic is gone": Script(
        end="failed", arrange=calls(PUBLISH, *[DOWN] * 7), promotes=4, reports=0
    ),
    "the input is wrong": Script(
        end="failed", arrange=nothing, executions=0, given={"attempt": 10}, says="the input is wrong"
    ),
}  # fmt: skip
