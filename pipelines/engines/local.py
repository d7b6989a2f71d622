"""Run a compiled DAG on this machine: KFP's own orchestrator, each stage a subprocess, each finished stage kept.

Running a DAG again, or resuming it after a kill, is one and the same thing: what was finished is found in the store.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.entrypoints.kfp import from_executor_input, write_executor_output
from components.shared.contracts.configuration import parse_config
from components.shared.contracts.environment import CHECKPOINT_INTERVAL, CHECKPOINTS
from components.shared.contracts.errors import PipelineError
from components.shared.contracts.records import Outcome
from components.shared.contracts.stage import Job, Report, StageConfig
from components.shared.performance.performance_tracker import PROGRESS_FILE
from pipelines.compilers.ir import predecessors, read_workflow
from pipelines.compilers.kubeflow import CompiledDag
from pipelines.engines.kfp_adapter import EXECUTOR_INPUT, TaskCall, run_ir
from pipelines.engines.outcomes import FINISHED, outcome_of
from pipelines.engines.process import Runner, StageJob, Subprocesses, cause
from pipelines.engines.run_folder import RunFolder, TaskState, TaskStatus
from pipelines.engines.stage_store import Entry, StageStore, key_of, key_parts, link

CHECKPOINT_SECONDS = 60
"""Seconds of training that a kill costs, at most: models of this size are saved in milliseconds."""


@dataclass(frozen=True, kw_only=True)
class LocalEngine:
    """What a run needs beside its DAG and its folder."""

    store: StageStore
    environment: Mapping[str, str]
    """Environment variables that every stage gets."""
    effect_holds: Callable[[Path], bool]
    """Whether what a stage did outside its outputs, by its report's folder, is still there."""
    on_report: Callable[[str, Path, float | None], None]
    """Called with task, report's folder and seconds when a stage is finished, cached or not."""
    runner: Runner = field(default_factory=Subprocesses)

    def run(self, dag: CompiledDag, arguments: Mapping[str, Any], folder: RunFolder) -> Outcome:
        """Run the DAG to its end and return the outcome; a failed stage's error is in the folder's state.

        Raises KeyboardInterrupt after stopping the stage at work, and PipelineError where KFP itself fails.
        """
        (folder.path / "logs").mkdir(exist_ok=True)
        folder.change(outcome=None, finished=None, tasks=fresh_tasks(dag))
        run = _Run(engine=self, dag=dag, folder=folder)
        log = folder.path / "logs" / "kfp.log"
        scratch = folder.path / "kfp"
        try:
            run_ir(dag.ir, arguments, run.task, scratch=scratch, log=log)
        except (RuntimeError, ValueError) as error:
            raise PipelineError(f"KFP's local engine failed: {error}: see {log}") from error
        except KeyboardInterrupt:
            self._mark(folder, (TaskStatus.RUNNING, TaskStatus.WAITING), TaskStatus.STOPPED)
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        outcome = outcome_of(dag, folder)
        if outcome != Outcome.FAILED:
            self._mark(folder, (TaskStatus.PENDING,), TaskStatus.SKIPPED)
        folder.change(outcome=outcome, finished=datetime.now(UTC))
        return outcome

    @staticmethod
    def _mark(folder: RunFolder, standing: Sequence[TaskStatus], becomes: TaskStatus) -> None:
        for name, task in folder.state.tasks.items():
            if task.status in standing:
                folder.change_task(name, status=becomes)


def fresh_tasks(dag: CompiledDag) -> dict[str, TaskState]:
    waits = predecessors(read_workflow(dag).body)
    return {name: TaskState(stage=task.spec.name, after=waits[name]) for name, task in dag.tasks.items()}


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One run of one DAG."""

    engine: LocalEngine
    dag: CompiledDag
    folder: RunFolder

    def task(self, call: TaskCall) -> bool:
        """Run one task, or find it in the store; says whether its outputs are there."""
        began, started, worked = time.monotonic(), datetime.now(UTC), 0.0
        spec = self.dag.tasks[call.task].spec
        request = from_executor_input(spec, call.executor_input)
        config = parse_config(spec.config, request.config, call.task)
        parts = self.engine.runner.key_parts(call.image, key_parts(spec, config, request.inputs))
        key = key_of(parts)
        with self.engine.store.hold(spec, key, self._waiting(call.task)) as entry:
            fault = self._fault(entry)
            redirected = into_entry(call.executor_input, entry)
            if fault is None:
                write_executor_output(spec, redirected, read_report(entry))
                facts: dict[str, Any] = {"status": TaskStatus.CACHED, **entry.measured}
            else:
                miss = fault if fault.startswith("corrupted") else self.engine.store.explain(spec, parts)
                self.folder.change_task(call.task, status=TaskStatus.RUNNING, started=started, key=key, miss=miss)
                entry.clear(parts)
                facts = self._run(self._job(call, config, key, redirected, request.inputs, entry), entry)
                worked = facts["seconds"]
            if facts["status"] in FINISHED:
                facts["outputs"] = self._link(call.task, entry)
        overhead = time.monotonic() - began - worked
        self.folder.change_task(call.task, key=key, started=started, overhead_seconds=round(overhead, 3), **facts)
        if facts["status"] in FINISHED:
            report = self.folder.runs / facts["outputs"]["report"]
            self.engine.on_report(call.task, report, facts.get("seconds"))
        return facts["status"] in FINISHED

    def _fault(self, entry: Entry) -> str | None:
        """Why the entry cannot be used: outputs that are not whole, or an effect elsewhere that is gone."""
        fault = entry.fault()
        if fault is None and not entry.spec.outputs and not self.engine.effect_holds(entry.output("report")):
            return "its effect is gone"
        return fault

    def _job(
        self,
        call: TaskCall,
        config: StageConfig,
        key: str,
        executor_input: dict[str, Any],
        inputs: Mapping[str, Path],
        entry: Entry,
    ) -> StageJob:
        """The stage's process, which writes into the entry."""
        progress = self.folder.progress(call.task).resolve()
        progress.parent.mkdir(exist_ok=True)
        answer = Path(executor_input["outputs"]["outputFile"]).parent
        answer.mkdir(parents=True, exist_ok=True)
        return StageJob(
            spec=entry.spec,
            config=config,
            key=key,
            image=call.image,
            command=(*call.command, EXECUTOR_INPUT, json.dumps(executor_input)),
            environment={
                **self.engine.environment,
                **(checkpointed(entry) if entry.spec.job == Job.TRAINING else {}),
                PROGRESS_FILE: str(progress),
                "PYTHONHASHSEED": "0",
            },
            log=self.folder.log(call.task),
            reads=tuple(inputs[name] for name in entry.spec.inputs),
            writes=(entry.folder, answer, progress.parent),
            lock=entry.lock,
        )

    def _run(self, job: StageJob, entry: Entry) -> dict[str, Any]:
        """Run the stage's process and measure it; it succeeded when its outputs are there, whatever it says."""
        returncode, measured = self.engine.runner.run(job)
        if returncode != 0:
            return {"status": TaskStatus.FAILED, "error": cause(returncode, job.log), **measured}
        if fault := entry.fault():
            return {"status": TaskStatus.FAILED, "error": f"ended without its outputs: {fault}", **measured}
        entry.measure(measured)
        shutil.rmtree(entry.checkpoints, ignore_errors=True)
        return {"status": TaskStatus.DONE, **measured}

    def _link(self, task: str, entry: Entry) -> dict[str, str]:
        for name in entry.spec.all_outputs:
            link(entry.output(name), self.folder.artifact(task, name))
        return {name: os.path.relpath(entry.output(name), self.folder.runs) for name in entry.spec.all_outputs}

    @contextlib.contextmanager
    def _waiting(self, task: str) -> Iterator[None]:
        self.folder.change_task(task, status=TaskStatus.WAITING)
        yield


def checkpointed(entry: Entry) -> dict[str, str]:
    """What tells a training stage where it finds its state after a kill; the entry's key covers its code too."""
    return {CHECKPOINTS: str(entry.checkpoints.resolve()), CHECKPOINT_INTERVAL: str(CHECKPOINT_SECONDS)}


def into_entry(executor_input: dict[str, Any], entry: Entry) -> dict[str, Any]:
    """The executor input with every output artifact in the store's entry."""
    outputs = executor_input["outputs"]
    artifacts = {
        name: {"artifacts": [{**item, "uri": str(entry.output(name))} for item in listed["artifacts"]]}
        for name, listed in outputs.get("artifacts", {}).items()
    }
    return {**executor_input, "outputs": {**outputs, "artifacts": artifacts}}


def read_report(entry: Entry) -> Report:
    return Report.model_validate_json((entry.output("report") / "report.json").read_bytes())
