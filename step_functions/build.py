"""Write the state machines (Amazon States Language, one NAME.asl.json a machine) from their sources.

A source is YAML: comments, lines that can be read, and retries and calls that are written once and referred to. Placeholders
such as ${bucket} stay; Terraform fills them in when it deploys the machine.

    python step_functions/build.py
"""

import json
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parent


def build() -> dict[str, str]:
    """The text of every state machine, by file name."""
    sources = sorted((FOLDER / "source").glob("*.yaml"))
    machines = {source.stem: yaml.safe_load(source.read_text(encoding="utf-8"))["machine"] for source in sources}
    return {f"{name}.asl.json": json.dumps(machine, indent=2) + "\n" for name, machine in machines.items()}


if __name__ == "__main__":
    for name, text in build().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
