"""What calls the program from outside: the PowerShell scripts and the CI workflow call only what exists, as it exists."""

import re
import shutil
import subprocess

import pytest
import yaml

from components.shared.storage.paths import PROJECT
from pipelines.cli import cli

SCRIPTS = sorted((PROJECT / "scripts").glob("*.ps1"))
WORKFLOW = PROJECT / ".github" / "workflows" / "ci.yml"


def check_call(words):
    """One call's command and options are the program's."""
    name, *rest = words
    command = cli.commands[name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= known, words


def test_there_are_the_scripts_that_the_specification_names():
    assert {script.name for script in SCRIPTS} == {"aws-deploy-training.ps1", "aws-test-training.ps1"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_calls_what_exists_and_decides_nothing(script):
    text = script.read_text()
    calls = [line.split() for line in re.findall(r"& srl-rlvr ([a-z][^\n}]*)", text)]
    if "@arguments" in text:
        (first,) = re.findall(r"\$arguments = @\(([^)]*)\)", text)
        listed = re.findall(r"'([^']+)'", first) + re.findall(r"\$arguments \+= '([^']+)'", text)
        calls.append(listed)
    assert calls
    for words in calls:
        check_call(words)
    assert len(text.splitlines()) <= 25, "a thin caller"
    assert text.rstrip().splitlines()[-1].startswith("exit ")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_uses_what_it_declares_and_closes_what_it_opens(script):
    """What a misspelt variable or a lost quote would do is seen without PowerShell: it would run, with an empty value."""
    code = re.sub(r"<#.*?#>", "", script.read_text(), flags=re.S)
    used = set(re.findall(r"[$@]([A-Za-z]\w*)", code))
    declared = set(re.findall(r"\] \$(\w+)", code)) | set(re.findall(r"^\$(\w+) =", code, re.M)) | {"LASTEXITCODE"}
    assert used == declared, "what is declared is used, and nothing else"
    for line in code.splitlines():
        assert all(line.count(quote) % 2 == 0 for quote in "'\""), line
    bare = re.sub(r"'[^']*'", "", code)
    assert all(bare.count(left) == bare.count(right) for left, right in ("()", "{}", "[]"))
    assert not [text for text in re.findall(r"'([^']*)'", code) if "$" in text], "single quotes fill in no variable"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_powershell(script):
    pwsh = shutil.which("pwsh")
    if pwsh is None:
        pytest.skip("no pwsh on this machine: PowerShell's own parser is not asked")
    parse = (
        "$errors = $null; [System.Management.Automation.Language.Parser]::ParseFile("
        f"'{script}', [ref]$null, [ref]$errors) | Out-Null; $errors | ForEach-Object {{ $_.Message }}; exit $errors.Count"
    )
    done = subprocess.run([pwsh, "-NoProfile", "-Command", parse], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_workflow_runs_the_commands_of_any_machine_and_holds_no_secret():
    text = WORKFLOW.read_text()
    workflow = yaml.safe_load(text)
    assert "secrets." not in text
    assert workflow["permissions"] == {"contents": "read"}
    ran = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert {"make lint", "make test", "make run"} <= set(ran)
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.M))
    for line in ran:
        words = line.split()
        if words[0] == "make":
            assert words[1] in targets
        elif words[0].endswith("srl-rlvr"):
            check_call(words[1:])
        else:
            assert words[0] == "bash" and (PROJECT / words[1]).is_file()


def test_the_account_comes_in_by_oidc_and_only_where_it_is_named():
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    (plan,) = [job for job in jobs.values() if job.get("permissions", {}).get("id-token") == "write"]
    assert "vars.AWS_DEPLOY_ROLE != ''" in plan["if"] and "pull_request" in plan["if"]
    (credentials,) = [s["with"] for s in plan["steps"] if "configure-aws-credentials" in s.get("uses", "")]
    assert credentials == {"role-to-assume": "${{ vars.AWS_DEPLOY_ROLE }}", "aws-region": "${{ vars.AWS_REGION }}"}


PAGES = [
    PROJECT / "README.md",
    PROJECT / "infrastructure" / "terraform" / "README.md",
    *sorted((PROJECT / "docs" / "recovery").glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_command_of_the_program_that_a_page_names_exists(page):
    """In code blocks and in backquotes, up to a comment; a command of a group is looked up as the group."""
    text = page.read_text()
    blocks = "\n".join(re.findall(r"```(?:\w*)\n(.*?)```", text, re.S))
    quoted = re.findall(r"`(srl-rlvr [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    lines = [line for line in blocks.splitlines() if line.startswith("srl-rlvr ")]
    for line in [*lines, *quoted]:
        words = [word.strip("[]") for word in line.partition("#")[0].split()[1:]]
        if words and re.fullmatch(r"[a-z-]+", words[0]):
            check_call(words)
