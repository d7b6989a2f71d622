"""One parser for the three ways in which a stage is started.

    python -m components STAGE --config FILE --input name=path --output name=path    a person, or a test
    python -m components STAGE --executor_input JSON                                 KFP, on a cluster or on this machine
    python -m components STAGE --sagemaker training|processing|report                SageMaker

Whichever it was, the same `Request` comes out and the same `execute` runs it. A failure is one line on standard error and
the error's exit code.
"""

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType

from components.catalogue import STAGES, spec_of
from components.entrypoints import sagemaker
from components.entrypoints.execution import Request, execute
from components.entrypoints.kfp import from_executor_input, write_executor_output
from components.entrypoints.sagemaker import Mode
from components.shared.contracts.errors import PipelineError, UsageError, unknown
from components.shared.storage.yaml_files import read_mapping
from components.shared.training.distributed.launch import only_main_process_prints, run_on_all_devices


class Parser(argparse.ArgumentParser):
    """argparse, with a fault as one UsageError line instead of a usage page."""

    def error(self, message: str):
        raise UsageError(f"{message}: see python -m components --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage; returns the process's exit code. SIGTERM's handler is afterwards what it was."""
    before = signal.signal(signal.SIGTERM, interrupt)
    # TRL would import MLflow, which no stage reports to through it: over a second of every start.
    os.environ.setdefault("DISABLE_MLFLOW_INTEGRATION", "TRUE")
    mode = None
    try:
        arguments = parser().parse_args(argv)
        mode = arguments.sagemaker
        if spec_of(arguments.stage).spread:
            code = run_on_all_devices(["-m", "components", *(sys.argv[1:] if argv is None else argv)])
            if code is not None:
                return code
        with only_main_process_prints():
            print(start(arguments))
        return 0
    except (Exception, KeyboardInterrupt) as error:
        line, code = explain(error)
        print(f"error: {line}", file=sys.stderr)
        if mode is not None:
            sagemaker.tell_failure(mode, line)
        return code
    finally:
        signal.signal(signal.SIGTERM, before)


def start(arguments: argparse.Namespace) -> str:
    """Run the stage in the way asked for and return its summary."""
    spec = spec_of(arguments.stage)
    if arguments.sagemaker is not None:
        return sagemaker.run(spec, arguments.sagemaker, arguments.set)
    if arguments.executor_input:
        executor_input = json.loads(arguments.executor_input)
        report = execute(from_executor_input(spec, executor_input))
        write_executor_output(spec, executor_input, report)
        return report.summary
    return execute(from_arguments(arguments)).summary


def explain(error: Exception | KeyboardInterrupt) -> tuple[str, int]:
    """A failure as one line and an exit code; what nobody foresaw leaves its traceback on standard error too."""
    if isinstance(error, PipelineError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        return f"{os.strerror(error.errno or 0)}: {error.filename or error}", 1
    if isinstance(error, KeyboardInterrupt):
        return "interrupted: nothing was written", 130
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}", 1


def interrupt(number: int, frame: FrameType | None) -> None:
    """End as a ctrl-C does, through whatever handler is in place for it: asyncio puts its own there."""
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(number, frame)


def parser() -> Parser:
    p = Parser(prog="python -m components", description="Run one stage of the pipeline, as its container does.")
    p.add_argument("stage", metavar="STAGE", help=", ".join(STAGES))
    p.add_argument("--config", type=Path, help="YAML file of the stage's configuration; defaults where absent")
    p.add_argument("--input", action="append", default=[], metavar="NAME=PATH", help="an input artifact")
    p.add_argument("--output", action="append", default=[], metavar="NAME=PATH", help="where an output artifact goes")
    p.add_argument("--executor_input", metavar="JSON", help="KFP's executor input, instead of the above")
    p.add_argument("--sagemaker", type=Mode, choices=list(Mode), help="read and write SageMaker's folders of /opt/ml")
    p.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="configuration of a processing job")
    return p


def from_arguments(arguments: argparse.Namespace) -> Request:
    """The request that the command line makes."""
    spec = spec_of(arguments.stage)
    return Request(
        spec=spec,
        config=read_mapping(arguments.config) if arguments.config else {},
        inputs=pairs(arguments.input, "input", spec.inputs),
        outputs=pairs(arguments.output, "output", spec.all_outputs),
    )


def pairs(items: Sequence[str], what: str, known: Iterable[str]) -> dict[str, Path]:
    """`NAME=PATH` items as a mapping; raises UsageError for an unknown, repeated or malformed one."""
    found: dict[str, Path] = {}
    for item in items:
        name, equals, path = item.partition("=")
        if not equals or not path:
            raise UsageError(
                f"--{what} {item!r} is not NAME=PATH: write for example --{what} {next(iter(known), 'x')}=DIR"
            )
        if name not in known:
            raise unknown(what, name, known)
        if name in found:
            raise UsageError(f"--{what} {name} is given twice: keep one")
        found[name] = Path(path)
    return found
