"""SageMaker's way to start a stage: /opt/ml, which a temporary folder stands for, in and out."""

import json
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.catalogue import spec_of
from components.entrypoints import sagemaker
from components.entrypoints.execution import REPORT
from components.entrypoints.main import main
from components.shared.contracts.environment import CHECKPOINTS
from components.shared.contracts.stage import ArtifactKind, Report
from components.shared.storage.artifacts import seal, verify, write_text

SMALL = ["counts.train=40", "counts.validation=5", "counts.test=10", "counts.practice=0", "seed=3"]
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture
def ml(tmp_path, monkeypatch):
    """The folder that stands for /opt/ml; variables that the adapter sets are taken back."""
    monkeypatch.setenv(sagemaker.ROOT, str(tmp_path))
    for name in (CHECKPOINTS, sagemaker.ECHO_METRICS):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path


def told(path, **values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


@given(PLAIN)
def test_a_value_survives_as_text(value):
    text = sagemaker.encode(value)
    assert isinstance(text, str)
    assert sagemaker.decode(text) == value


@given(st.text())
def test_plain_text_stays_readable(text):
    """Only what would be read as something else is quoted."""
    encoded = sagemaker.encode(text)
    assert encoded == text or json.loads(encoded) == text


def test_a_parameters_field_is_text_and_a_constants_is_json():
    spec = spec_of("trajectory_generation")
    values = sagemaker.configuration(
        spec, {"model_type": "123", "seed": "4", "counts.train": "7", "teacher.model": '"1"'}
    )
    config = spec.config.model_validate(values)
    assert (config.model_type, config.seed, config.counts.train, config.teacher.model) == ("123", 4, 7, "1")


def test_every_stages_defaults_survive_the_way_through_texts():
    from components.catalogue import STAGES

    for spec in map(spec_of, STAGES):
        config = spec.config()
        dumped = sagemaker.flat(config.model_dump(mode="json"))
        texts = {
            key: str(value) if key in spec.parameters else sagemaker.encode(value) for key, value in dumped.items()
        }
        assert spec.config.model_validate(sagemaker.configuration(spec, texts)) == config


def test_a_processing_job_fills_the_folders_that_are_mounted(ml):
    mounted = {name: ml / "processing" / "output" / name for name in ("trajectories", "report")}
    for folder in mounted.values():
        folder.mkdir(parents=True)
    inodes = {name: folder.stat().st_ino for name, folder in mounted.items()}
    assert main(["trajectory_generation", "--sagemaker", "processing", "--set", *SMALL]) == 0
    assert {name: folder.stat().st_ino for name, folder in mounted.items()} == inodes
    manifest = verify(mounted["trajectories"], ArtifactKind.TRAJECTORIES)
    assert manifest.metadata["config"]["counts"] == {"train": 40, "validation": 5, "test": 10, "practice": 0}
    assert manifest.metadata["config"]["seed"] == 3
    verify(mounted["report"], ArtifactKind.REPORT)
    assert [path.name for path in (ml / "processing").iterdir()] == ["output"]


def test_its_artifacts_are_those_of_the_command_line(ml, tmp_path_factory):
    by_hand = tmp_path_factory.mktemp("hand")
    config = by_hand / "config.yaml"
    config.write_text("counts: {train: 40, validation: 5, test: 10, practice: 0}\nseed: 3\n")
    outputs = [f"--output={name}={by_hand / name}" for name in ("trajectories", "report")]
    assert main(["trajectory_generation", "--config", str(config), *outputs]) == 0
    assert main(["trajectory_generation", "--sagemaker", "processing", "--set", *SMALL]) == 0
    for name in ("trajectories", "report"):
        assert verify(by_hand / name).digest == verify(ml / "processing" / "output" / name).digest


def test_a_failed_processing_job_leaves_its_reason_and_nothing_else(ml, capsys):
    (ml / "processing" / "output" / "verified").mkdir(parents=True)
    assert main(["verification", "--sagemaker", "processing", "--set", "threshold=0.7"]) == 2
    said = "verification: no input 'trajectories' given: add --input trajectories=DIR"
    assert capsys.readouterr().err == f"error: {said}\n"
    assert (ml / "output" / "message").read_text() == said
    assert list((ml / "processing" / "output" / "verified").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["thresold=0.7"], "did you mean 'threshold'?"),
        (["threshold=high"], "threshold = 'high'"),
        (["threshold"], "--set 'threshold' is not KEY=VALUE"),
    ],
)
def test_a_bad_setting_is_one_line(ml, settings, said):
    assert main(["verification", "--sagemaker", "processing", "--set", *settings]) == 2
    assert said in (ml / "output" / "message").read_text()


def test_a_training_job_reads_channels_and_writes_one_model_directory(ml, monkeypatch):
    """A stand-in for the stage's own run: what matters here is what it is given, and where its outputs appear."""
    seen = {}

    def run(config, inputs, outputs):
        seen.update(config=config, inputs=inputs, checkpoints=os.environ[CHECKPOINTS])
        (outputs["policy"] / "model.safetensors").write_bytes(b"weights")
        return Report(stage="srl", summary="trained", metrics={"loss": 1.0})

    monkeypatch.setattr("components.srl.run.run", run)
    told(ml / "input/config/hyperparameters.json", steps="5", learning_rate="0.001", seed="9")
    told(ml / "input/config/resourceconfig.json", current_host="algo-1", hosts=["algo-1"])
    for name, kind in (("dataset", ArtifactKind.DATASET), ("policy", ArtifactKind.POLICY)):
        (ml / "input/data" / name).mkdir(parents=True)
        seal(ml / "input/data" / name, kind)
    (ml / "checkpoints").mkdir()
    assert main(["srl", "--sagemaker", "training"]) == 0
    assert (seen["config"].steps, seen["config"].learning_rate, seen["config"].seed) == (5, 0.001, 9)
    assert seen["inputs"] == {name: ml / "input/data" / name for name in ("dataset", "policy")}
    assert seen["checkpoints"] == str(ml / "checkpoints")
    assert {path.name for path in (ml / "model").iterdir()} == {"policy", "report"}
    assert verify(ml / "model/policy", ArtifactKind.POLICY).files.keys() == {"model.safetensors"}


def test_a_failed_training_job_says_why_in_one_line(ml):
    told(ml / "input/config/hyperparameters.json", stepps="5")
    assert main(["srl", "--sagemaker", "training"]) == 2
    assert (ml / "output/failure").read_text() == "unknown key of srl 'stepps': did you mean 'steps'?"
    assert not (ml / "model").exists()


def test_a_long_cause_is_cut_between_characters(ml):
    sagemaker.tell_failure(sagemaker.Mode.TRAINING, "ü" * 2000 + "\n  tail")
    text = (ml / "output/failure").read_bytes()
    assert len(text) <= sagemaker.CAUSE_LIMIT
    assert set(text.decode()) == {"ü"}


def left_report(ml):
    folder = ml / "processing" / "input" / "report"
    folder.mkdir(parents=True)
    report = Report(stage="distillation", summary="", scalars={"quality_margin": 0.25})
    write_text(folder / REPORT, report.model_dump_json())
    seal(folder, ArtifactKind.REPORT)
    (ml / "processing" / "output" / "report").mkdir(parents=True)
    return folder


def test_a_training_jobs_report_is_passed_on_whole(ml, capsys):
    left = left_report(ml)
    assert main(["distillation", "--sagemaker", "report"]) == 0
    assert verify(ml / "processing/output/report").digest == verify(left).digest
    scalars = json.loads((ml / "processing/output/report" / REPORT).read_text())["scalars"]
    assert scalars == {"quality_margin": 0.25}
    assert "quality_margin = 0.25" in capsys.readouterr().out


def test_an_altered_report_opens_no_gate(ml):
    (left_report(ml) / REPORT).write_text('{"scalars": {"quality_margin": 1.0}}')
    assert main(["distillation", "--sagemaker", "report"]) == 1
    assert "does not match its manifest" in (ml / "output/message").read_text()
    assert list((ml / "processing/output/report").iterdir()) == []


@pytest.mark.slow
def test_sigterm_ends_a_job_with_its_reason(ml):
    """As SageMaker stops a job. The process is told once it is at work, which its first line of progress shows."""
    environment = {**os.environ, sagemaker.ROOT: str(ml), "SRL_RLVR_PROGRESS": str(ml / "progress.json")}
    command = [sys.executable, "-m", "components", "trajectory_generation", "--sagemaker", "processing"]
    process = subprocess.Popen([*command, "--set", "counts.train=4000"], env=environment, stderr=subprocess.PIPE)
    while process.poll() is None and not (ml / "progress.json").exists():
        pass
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in (ml / "output/message").read_text()
    assert not (ml / "processing" / "output" / "trajectories").exists()


def test_importing_the_adapter_is_light():
    heavy = ("torch", "boto3", "mlflow", "kfp", "transformers")
    program = f"import sys, components.entrypoints.main; print([m for m in {heavy!r} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
