import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from components.shared.contracts.environment import PROCESSES, STRATEGY
from components.shared.contracts.errors import UsageError
from components.shared.training.distributed import launch
from components.shared.training.distributed.launch import Cluster, cluster_of_job, run_on_all_devices, torchrun


def sagemaker(folder, current, *hosts):
    path = folder / launch.RESOURCES
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"current_host": current, "hosts": list(hosts), "network_interface_name": "eth0"}))
    return {"SM_LOCAL_ROOT": str(folder)}


def test_hosts_come_from_sagemaker_s_file_in_one_order_for_all(tmp_path):
    for rank, host in enumerate(("algo-1", "algo-2", "algo-3")):
        cluster = cluster_of_job(sagemaker(tmp_path, host, "algo-3", "algo-1", "algo-2"))
        assert cluster == Cluster(hosts=3, rank=rank, master="algo-1", port=launch.PORT)


def test_torchrun_s_own_variables_come_first(tmp_path):
    variables = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "7"}
    cluster = cluster_of_job({**sagemaker(tmp_path, "x", "x", "y"), **variables})
    assert cluster == Cluster(hosts=2, rank=1, master="a", port=7)
    with pytest.raises(UsageError, match="NODE_RANK = 2 of NNODES = 2"):
        cluster_of_job({**variables, "NODE_RANK": "2"})


def test_a_job_of_one_host_needs_no_address(tmp_path):
    assert cluster_of_job({"SM_LOCAL_ROOT": str(tmp_path)}) == Cluster()
    command = torchrun(["-m", "components", "srl"], Cluster(), 4)
    assert "--standalone" in command and "--nproc-per-node=4" in command
    assert command[-4:] == [sys.executable, "-m", "components", "srl"]
    several = torchrun(["x"], Cluster(hosts=2, rank=1, master="algo-1"), 8)
    assert {"--nnodes=2", "--node-rank=1", "--master-addr=algo-1", f"--master-port={launch.PORT}"} <= set(several)


@pytest.mark.parametrize(
    "environment",
    [{}, {STRATEGY: "single", PROCESSES: "4"}, {STRATEGY: "fsdp", PROCESSES: "1"}, {STRATEGY: "fsdp", "RANK": "0"}],
)
def test_one_process_does_the_work_itself(environment, tmp_path):
    assert run_on_all_devices(["x"], {"SM_LOCAL_ROOT": str(tmp_path), **environment}) is None


def test_an_unknown_strategy_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'fsdp'"):
        run_on_all_devices(["x"], {STRATEGY: "fsdp2"})


@pytest.mark.slow
def test_every_process_knows_its_place_and_a_failure_is_passed_on(tmp_path):
    code = (
        "import os, pathlib; pathlib.Path(os.environ['OUT'], os.environ['RANK']).write_text(os.environ['WORLD_SIZE'])"
    )
    environment = {**os.environ, STRATEGY: "ddp", PROCESSES: "2", "OUT": str(tmp_path), "SM_LOCAL_ROOT": str(tmp_path)}
    assert run_on_all_devices(["-c", code], environment) == 0
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"0": "2", "1": "2"}
    assert run_on_all_devices(["-c", "raise SystemExit(3)"], environment) != 0


@pytest.mark.slow
def test_sigterm_is_passed_on_and_only_the_stage_s_line_is_said(tmp_path):
    """The launcher is a process of its own, since it is the one that is signalled."""
    work = (
        "import os, signal, sys\n"
        "def stop(*_): os.write(2, b'error: saved\\n'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop); os.write(1, b'ready\\n'); signal.pause()"
    )
    main = (
        "import sys; from components.shared.training.distributed.launch import run_on_all_devices; "
        "sys.exit(run_on_all_devices(['-c', sys.argv[1]]))"
    )
    environment = {**os.environ, STRATEGY: "ddp", PROCESSES: "2", "SM_LOCAL_ROOT": str(tmp_path)}
    launcher = subprocess.Popen(
        [sys.executable, "-c", main, work],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(120, launcher.kill)
    watchdog.start()
    assert [launcher.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    launcher.send_signal(signal.SIGTERM)
    _, errors = launcher.communicate()
    watchdog.cancel()
    assert launcher.returncode == 143
    assert set(errors.splitlines()) == {"error: saved"}
