"""The daemon of one's own: what it says on a machine that cannot have one, and what it leaves behind."""

import os
import shutil
import subprocess

import pytest
from docker_images import CONTAINERS

PROBE = (CONTAINERS / "tools" / "dockerd.sh", "probe")


def said(command, folder, **variables):
    """How a command ended, and its last line; its temporary files lie in `folder`."""
    told = {**os.environ, "TMPDIR": str(folder), **variables}
    done = subprocess.run([*map(str, command)], env=told, capture_output=True, text=True)
    return done.returncode, done.stderr.strip().splitlines()[-1:]


def test_a_machine_without_the_program_is_told_in_one_line(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "env"):
        (tools / name).symlink_to(shutil.which(name))
    assert said(PROBE, tmp_path, PATH=str(tools)) == (1, ["error: no dockerd on the PATH"])


@pytest.mark.slow
def test_a_kernel_that_refuses_containers_fails_the_probe_which_leaves_nothing(docker_daemon, tmp_path_factory):
    """Without the capability to mount, dockerd starts, and no container does."""
    # A socket's path has a limit of 108 bytes, which a folder by the test's name comes near.
    folder = tmp_path_factory.mktemp("probe")
    refused = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", *PROBE)
    code, reason = said(refused, folder)
    assert code == 1
    assert "not permitted" in reason[0]
    assert list(folder.iterdir()) == []
    assert said(PROBE, folder) == (0, [])
    assert list(folder.iterdir()) == []
