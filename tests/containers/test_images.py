"""The images: what their Dockerfiles say, what they install, and what is in the one that is built here."""

import json
import subprocess
import tomllib
from pathlib import Path

import pytest
from docker_images import CONTAINERS, PROJECT, succeed
from image_requirements import EXTRAS, requirements

from components.catalogue import STAGES, spec_of
from pipelines.engines.stage_store import LIBRARIES
from pipelines.images import IMAGES, source_files

MIB = 1 << 20
HEALTH = "http://127.0.0.1:8080/health"


@pytest.mark.parametrize("image", IMAGES)
def test_a_dockerfile_is_clean(hadolint, image):
    linted = subprocess.run([hadolint, CONTAINERS / image / "Dockerfile"], capture_output=True, text=True)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_linter_finds_what_it_is_there_for(hadolint, tmp_path):
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python:latest\nUSER root\nENTRYPOINT python -m components\n")
    said = subprocess.run([hadolint, bad], capture_output=True, text=True)
    assert said.returncode == 1
    assert {"DL3007", "DL3002", "DL3025"} <= set(said.stdout.replace(":", " ").split())


def test_every_stage_has_its_image():
    assert {spec_of(stage).image for stage in STAGES} <= set(IMAGES)
    assert set(EXTRAS) == set(IMAGES) == {path.parent.name for path in CONTAINERS.glob("*/Dockerfile")}


@pytest.mark.parametrize("image", sorted({spec_of(stage).image for stage in STAGES}))
def test_what_a_stages_key_counts_as_libraries_is_what_its_image_installs(image):
    assert set(LIBRARIES[image]) <= set(EXTRAS[image])


def test_an_image_installs_no_authoring_and_no_torch_that_it_does_not_need():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {image: " ".join(requirements(project, image)) for image in IMAGES}
    assert all("kfp" not in listed and "pydantic" in listed for listed in wanted.values())
    assert {image for image, listed in wanted.items() if "torch==" in listed} == {"training"}
    assert f"mlflow-skinny{project['optional-dependencies']['tracking'][0].removeprefix('mlflow')}" in wanted["data"]
    with pytest.raises(KeyError):
        list(requirements(project, "nothing"))


def test_the_source_digest_covers_code_and_worlds_and_no_base_policy():
    names = {path.relative_to(PROJECT).as_posix() for path in source_files()}
    assert {"components/__main__.py", "configs/worlds/wrackmere/world.yaml", "requirements.lock"} <= names
    assert not any(
        name.startswith(("configs/models/", "tests/", "pipelines/")) or "__pycache__" in name for name in names
    )


def docker(*arguments: str) -> str:
    return succeed("docker", *arguments)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_data_image_is_small_anonymous_labelled_and_without_torch(data_image):
    (found,) = json.loads(docker("image", "inspect", data_image))
    config = found["Config"]
    assert config["Entrypoint"] == ["python", "-m", "components"]
    assert config["User"] == "10001:10001"
    assert found["Size"] < 1150 * MIB
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == "srl-rlvr data"
    assert "unknown" not in labels.values()
    probe = "import importlib.util as u; print([n for n in ('torch', 'kfp', 'pip', 'pipelines') if u.find_spec(n)])"
    assert docker("run", "--rm", "--network", "none", "--entrypoint", "python", data_image, "-c", probe) == "[]\n"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("image", IMAGES)
def test_no_image_keeps_pips_settings_or_a_name_of_this_machine(image, images):
    """An index's address may hold a password; the build's certificates and wheels are this machine's."""
    said = docker("history", "--no-trunc", images[image]) + docker("image", "inspect", images[image])
    assert not [
        word for word in ("PIP_", "127.0.0.1:", "/opt/wheels", str(PROJECT)) if word in said.replace(HEALTH, "")
    ]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_bill_of_materials_lists_what_is_installed_at_the_locked_versions(syft, serving_image):
    bill = json.loads(succeed(syft, "scan", "--quiet", f"docker:{serving_image}", "--output", "spdx-json"))
    listed = {f"{package['name']}=={package.get('versionInfo')}" for package in bill["packages"]}
    locked = (PROJECT / "requirements.lock").read_text(encoding="utf-8").split()
    assert {"fastapi", "uvicorn", "pydantic"} <= {line.partition("==")[0] for line in listed & set(locked)}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_image_holds_exactly_the_source_that_its_label_speaks_of(data_image):
    list_files = "cd /opt/srl-rlvr && find components configs -type f -not -name '*.pyc' -not -name '*.pyo'"
    inside = docker("run", "--rm", "--network", "none", "--entrypoint", "sh", data_image, "-c", list_files).split()
    here = {path.relative_to(PROJECT).as_posix() for path in source_files()}
    assert set(inside) == {name for name in here if name.startswith(("components/", "configs/"))}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_images_own_user_runs_a_stage_on_artifacts_of_somebody_else(data_image, tmp_path):
    """As on a cluster: inputs that belong to root, a volume to write on, the image's user, and no command but the stage."""
    from components.entrypoints.main import main
    from components.shared.contracts.stage import ArtifactKind
    from components.shared.storage.artifacts import verify

    work = tmp_path / "work"
    work.mkdir()
    config = work / "generation.yaml"
    config.write_text("counts: {train: 12, validation: 2, test: 4, practice: 0}\n")
    made = [f"--output={name}={work / name}" for name in ("trajectories", "report")]
    assert main(["trajectory_generation", "--config", str(config), *made]) == 0

    def options(folder: Path, inputs: Path) -> list[str]:
        outputs = (f"--output={name}={folder / name}" for name in ("verified", "report"))
        return ["verification", f"--input=trajectories={inputs}", *outputs]

    assert main(options(tmp_path / "here", work / "trajectories")) == 0
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    mounts = ["--volume", f"{work}:/in:ro", "--volume", f"{volume}:/out"]
    docker("run", "--rm", "--network", "none", *mounts, data_image, *options(Path("/out"), Path("/in/trajectories")))
    for name, kind in (("verified", ArtifactKind.TRAJECTORIES), ("report", ArtifactKind.REPORT)):
        assert verify(volume / name, kind) == verify(tmp_path / "here" / name, kind)
        assert (volume / name / "manifest.json").stat().st_uid == 10001
