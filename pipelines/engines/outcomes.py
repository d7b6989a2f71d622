"""What became of the policy of a run that came to its end, whichever engine ran it."""

from components.shared.contracts.records import Outcome
from components.shared.contracts.stage import Report
from pipelines.compilers.kubeflow import CompiledDag
from pipelines.engines.run_folder import RunFolder, TaskStatus

FINISHED = (TaskStatus.DONE, TaskStatus.CACHED)


def outcome_of(dag: CompiledDag, folder: RunFolder) -> Outcome:
    """Failed where a task failed, refused where no registration was reached, else what the registrations say."""
    tasks = folder.state.tasks
    if any(task.status == TaskStatus.FAILED for task in tasks.values()):
        return Outcome.FAILED
    reports = [
        Report.model_validate_json((folder.artifact(name, "report") / "report.json").read_bytes())
        for name, task in tasks.items()
        if task.status in FINISHED and not dag.tasks[name].spec.outputs
    ]
    registrations = [Outcome(str(report.details.get("outcome", Outcome.REGISTERED))) for report in reports]
    if not registrations:
        return Outcome.REFUSED
    return Outcome.REGISTERED if Outcome.REGISTERED in registrations else Outcome.STALE
