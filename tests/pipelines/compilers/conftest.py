"""Every DAG compiled for SageMaker on every tier, once."""

import sys
from pathlib import Path

import pytest
from toy_stage import spec_of

from components.shared.contracts.records import Tier
from pipelines.compilers.kubeflow import compile_dag, compile_definition
from pipelines.compilers.sagemaker import compile_sagemaker
from pipelines.configuration import load_settings
from pipelines.definitions.composer import Composer, pipeline

sys.path.append(str(Path(__file__).parent))

CASES = [("nightly", Tier.BRONZE), *((dag, tier) for dag in ("post_training", "distillation") for tier in Tier)]
"""`nightly` goes through every tier in one definition."""


@pytest.fixture(scope="session")
def dags():
    """The compiled IR by DAG and tier, for the environment `prod`."""
    return {(name, tier): compile_dag(name, load_settings("prod", tier)) for name, tier in CASES}


@pytest.fixture(scope="session")
def definitions(dags):
    """The SageMaker pipelines by DAG and tier."""
    return {case: compile_sagemaker(dag) for case, dag in dags.items()}


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request):
    return request.param


@pytest.fixture
def dag(dags, case):
    return dags[case]


@pytest.fixture
def sagemaker_pipeline(definitions, case):
    return definitions[case]


@pytest.fixture
def wide_dag():
    """Compiles a DAG of so many toy tasks, in pairs."""

    def compiled(length):
        def define(compose):
            @pipeline("toys")
            def toys(seed: int = 0):
                """Many pairs."""
                for number in range(length // 2):
                    grown = compose.task(f"grow_{number}", "grow", seed=seed)
                    compose.task(f"judge_{number}", "judge", seeds=grown.outputs["seeds"], seed=seed)

            return toys

        composer = Composer(load_settings("prod", Tier.GOLD), spec_of, ("python", "-m", "toy_stage"))
        return compile_definition("toys", define, composer)

    return compiled
