#!/usr/bin/env bash
# Fetches what the offline proofs of infrastructure/terraform need into .venv-infrastructure: Python packages only.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=.venv-infrastructure
python=${PYTHON:-.venv/bin/python}
[ -x "$(command -v "$python")" ] || python=python3
[ -x $folder/bin/python ] || "$python" -m venv $folder
$folder/bin/pip install --quiet --disable-pip-version-check --requirement infrastructure/tools/requirements.txt
# This wheel is read, never imported, so its dependencies are not wanted.
$folder/bin/pip download --quiet --disable-pip-version-check --no-deps --dest $folder/share cdktn-provider-aws==25.8.1
