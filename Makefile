# `make run` on a new machine: a virtual environment, pinned packages, then one night of training.
#   ENV=test     another file of configs/environments/
#   DAG=nightly  another DAG

ENV ?= local
DAG ?= nightly
EXTRAS := data,train,tracking,aws,serve,dev
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3 python,$(shell $(name) -c \
	'import sys; (3, 11) <= sys.version_info[:2] <= (3, 12) and print(sys.executable)' 2>/dev/null)))
BIN := .venv/bin
READY := .venv/ready
SDK := .venv-sagemaker/ready

.DEFAULT_GOAL := help
.PHONY: help sagemaker setup run images sbom test containers fast verify lint bench learn learn-full clean

help: ## What there is to do
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

setup: $(READY) ## The virtual environment, with the versions of requirements.lock

$(READY): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo 'error: no Python 3.11 or 3.12 found: install one, or pass PYTHON=/path/to/python3.11' >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[$(EXTRAS)]'
	@touch $(READY)

# The SDK needs older versions of two libraries than the lock file has, hence an environment of its own.
sagemaker: $(SDK) ## The SageMaker SDK, for --engine sagemaker-local and for the tests that ask it

$(SDK): pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv-sagemaker
	grep -vE '^(rich|importlib_metadata)==' requirements.lock > .venv-sagemaker/constraints.txt
	.venv-sagemaker/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-sagemaker/constraints.txt \
		-e '.[sagemaker]'
	@touch $(SDK)

run: $(READY) ## Run a DAG on this machine
	$(BIN)/srl-rlvr run $(DAG) --env $(ENV)

images: $(READY) ## The container images, as ENV names them
	$(BIN)/python containers/build.py --env $(ENV)

sbom: $(READY) ## A bill of materials of each image, in build/sbom
	bash containers/tools/install.sh
	@mkdir -p build/sbom
	@for name in $$($(BIN)/python containers/build.py --env $(ENV) --names); do image=$${name##*/}; \
		.venv-containers/bin/syft scan --quiet docker:$$name --output spdx-json=build/sbom/$${image%%:*}.spdx.json || exit 1; done

test: $(READY) ## All tests; campaigns (kills, mutations, fault scripts) are sampled
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --ignore tests/containers

containers: $(READY) ## The tests of the images, with a Docker daemon of their own
	bash containers/tools/install.sh
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/containers

fast: $(READY) ## The tests that take no more than about two seconds each
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not slow"

verify: $(READY) lint ## All tests, campaigns whole
	OMP_NUM_THREADS=1 SRL_RLVR_CAMPAIGNS=whole $(BIN)/pytest -n 2 --dist loadfile --ignore tests/containers
	OMP_NUM_THREADS=1 SRL_RLVR_CAMPAIGNS=whole $(BIN)/pytest tests/containers

lint: $(READY) ## Style, types and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy components pipelines

bench: $(READY) ## Measure, into docs/benchmarks.md; BENCH=training is a part
	$(BIN)/python -m benchmarks $(BENCH)

learn: $(READY) ## What training teaches, on three seeds, to docs/learning.md; goes on where it was stopped
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.learning

learn-full: $(READY) ## The same for every model type, five seeds and more ways to train: many hours
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.learning --full

clean: ## Remove what runs and builds left; the virtual environment stays
	rm -rf runs build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find components pipelines tests -name __pycache__ -prune -exec rm -rf {} +
