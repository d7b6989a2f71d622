"""`srl-rlvr deploy`, as an engineer types it: from a new account to a second deployment that changes nothing.

Terraform is real, its provider serves AWS's schema, whose credentials they are moto says.
"""

import shutil

import pytest
from deployment import PROJECT, take_over
from moto import mock_aws

from components.shared.contracts.errors import UsageError
from pipelines.cli import cli, guarded
from pipelines.operations import deploy

pytestmark = pytest.mark.slow

ACCOUNT = "123456789012"


@pytest.fixture
def typed(terraform, provider, tmp_path, monkeypatch, capsys):
    """Run `srl-rlvr` on a copy of the configuration, in moto's account."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    for name, value in provider["environment"].items():
        monkeypatch.setenv(name, value)
    configs, configuration = tmp_path / "configs", tmp_path / "terraform"
    shutil.copytree(PROJECT / "configs", configs, ignore=shutil.ignore_patterns("models", "worlds"))
    dev = configs / "environments" / "dev.yaml"
    dev.write_text(dev.read_text().replace("111122223333", ACCOUNT))
    shutil.copytree(terraform.folder, configuration, symlinks=True, ignore=shutil.ignore_patterns("*.tfstate*"))
    (configuration / "environments" / "dev" / "backend.hcl").write_text(f'path = "{tmp_path}/dev.tfstate"\n')
    monkeypatch.setenv("SRL_RLVR_CONFIGS", str(configs))

    monkeypatch.setattr(deploy, "CONFIGURATION", configuration)

    def run(*arguments):
        code = guarded(
            lambda: cli.main(
                args=["deploy", "--env", "dev", "--build", str(tmp_path / "build"), *arguments],
                prog_name="srl-rlvr",
                standalone_mode=False,
            )
        )
        out, err = capsys.readouterr()
        return code, out, err

    with mock_aws():
        yield run, dev, tmp_path


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Where the state that a first pass leaves is kept, once a test has made one."""
    return tmp_path_factory.mktemp("first-pass") / "dev.tfstate"


def begin(run, state, begun):
    """Make the first pass, or take over the state of an earlier one."""
    if begun.exists():
        shutil.copy(begun, state)
        return
    code, _, err = run("--without-pipelines", "--yes")
    assert code == 0, err
    shutil.copy(state, begun)


def test_from_a_new_account_to_nothing_to_do(typed):
    run, dev, tmp_path = typed
    code, out, err = run("--without-pipelines")
    assert code == 2 and err == "error: nobody is there to confirm: pass --yes, or --plan-only to see the plan\n"
    assert "Plan:" in out and not (tmp_path / "dev.tfstate").exists(), "the diff is shown, nothing is applied"
    assert out.count('resource "aws_cloudwatch_dashboard" "this"') == 5

    code, out, err = run("--without-pipelines", "--yes")
    assert code == 0, err
    assert "compiled 0 pipelines" in out and "Apply complete!" in out and "sagemaker:" in out
    take_over(out.rpartition("then deploy the pipelines:")[2], dev)

    code, out, err = run("--plan-only")
    assert code == 0, err
    assert "compiled 13 pipelines" in out
    assert out.count('resource "aws_sagemaker_pipeline" "this"') == 13
    assert "Apply complete!" not in out

    code, out, err = run("--yes")
    assert code == 0 and "13 added" in out, err
    code, out, err = run("--yes")
    assert code == 0 and out.endswith("dev is deployed as it is compiled here: nothing to do\n"), err


def test_a_definition_of_another_network_is_refused_by_terraform_in_one_line(typed, begun):
    """The environment as committed names no network, and the account has one once the first pass is through."""
    run, _, tmp_path = typed
    code, _, err = run("--yes")
    assert (
        code == 2
        and "nothing is deployed to dev yet: begin with `srl-rlvr deploy --env dev --without-pipelines`" in err
    )
    assert not (tmp_path / "dev.tfstate").exists()
    begin(run, tmp_path / "dev.tfstate", begun)
    state = (tmp_path / "dev.tfstate").read_text()
    code, _, err = run("--yes")
    assert code == 1 and err.count("\n") == 1
    assert "may not be deployed" in err and "not in this account's network" in err
    assert (tmp_path / "dev.tfstate").read_text() == state


def test_what_cannot_be_deployed_is_said_before_anything_is_written(typed, monkeypatch):
    run, dev, tmp_path = typed
    dev.write_text(dev.read_text().replace(ACCOUNT, "999988887777"))
    code, _, err = run("--yes")
    assert code == 2 and f"the credentials are of account {ACCOUNT}, environment 'dev' is account 999988887777" in err
    dev.write_text(dev.read_text().replace("999988887777", "111122223333"))
    assert "is the placeholder of AWS's documentation" in run("--yes")[2]
    dev.write_text(dev.read_text().replace("111122223333", ACCOUNT))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run("--yes")[2] == "error: no terraform on the PATH: install Terraform 1.11 or later\n"
    assert not (tmp_path / "build").exists()
    with pytest.raises(UsageError, match="is not there: copy another environment's folder"):
        deploy.Deployment(environment="dev", build=tmp_path / "build", configuration=tmp_path).check()


def test_what_the_plan_refuses_is_refused_here_before_anything_is_written(typed, begun):
    run, dev, tmp_path = typed
    gold = dev.parents[1] / "tiers" / "gold.yaml"
    gold.write_text(gold.read_text().replace("budget_usd: 300", "budget_usd: 70"))
    code, out, err = run("--plan-only")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "gold: 76 USD at the time limits, over its budget of 70 USD" in err
    assert err.endswith("see `srl-rlvr plan post_training --tier gold --env dev`, or pass --despite-plan\n")
    assert not (tmp_path / "build").exists()
    begin(run, tmp_path / "dev.tfstate", begun)
    code, out, _ = run("--plan-only", "--despite-plan")
    assert out.startswith("despite the plan: gold: 76 USD at the time limits") and "compiled 13 pipelines" in out


def test_terraforms_boxes_become_one_line():
    out = (
        "╷\n│ Error: Invalid value\n│ \n│   on main.tf line 3:\n│ zones are the same\n╵\n"
        "╷\n│ Warning: x\n╵\n╷\n│ Error: Another\n╵\n"
    )
    assert deploy.reason(out) == (
        "Invalid value on main.tf line 3: zones are the same (and 1 more): put it right and deploy again"
    )
