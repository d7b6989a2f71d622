"""The toy stages' entry point, by either way in which an engine starts them:

python -m toy_stage STAGE --executor_input JSON
python -m toy_stage STAGE --sagemaker MODE [--set KEY=VALUE ...]
"""

import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path

from components.entrypoints import sagemaker
from components.entrypoints.execution import execute
from components.entrypoints.kfp import from_executor_input, write_executor_output
from components.shared.contracts.errors import PipelineError


def spec_of(stage: str):
    return import_module(f"components.{stage}.spec").SPEC


def trouble(stage: str) -> None:
    """What TOY_TROUBLE asks for at this stage: STAGE:kill (the engine dies, so does the stage), STAGE:orphan (the engine
    dies, the stage goes on), STAGE:interrupt (ctrl-C, then the stage waits to be stopped), STAGE:once (an error, unless
    the file TOY_MARK says that it was had)."""
    where, _, what = os.environ.get("TOY_TROUBLE", "").partition(":")
    if where != stage:
        return
    if what == "once":
        mark = Path(os.environ["TOY_MARK"])
        if not mark.exists():
            mark.touch()
            raise PipelineError(f"{stage} met trouble: try again")
        return
    os.kill(os.getppid(), signal.SIGINT if what == "interrupt" else signal.SIGKILL)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "interrupt":
        signal.pause()


def main() -> int:
    spec, way, *rest = spec_of(sys.argv[1]), *sys.argv[2:]
    try:
        if way == "--sagemaker":
            print(sagemaker.run(spec, sagemaker.Mode(rest[0]), rest[2:]))
        else:
            executor_input = json.loads(rest[0])
            write_executor_output(spec, executor_input, execute(from_executor_input(spec, executor_input)))
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        if way == "--sagemaker":
            sagemaker.tell_failure(sagemaker.Mode(rest[0]), str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
