"""A real SLURM of one node for tests, in a folder and on ports of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

PROGRAMS = ("sbatch", "scancel", "squeue", "slurmctld", "slurmd", "munged", "setpriv")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldParameters=enable_configless
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
KillWait=5
MinJobAge=2
DefMemPerCPU=600
SchedulerParameters=sched_min_interval=100000,bf_interval=1
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=6 RealMemory=6000 Gres=gpu:2 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=60 State=UP
"""


def why_not() -> str:
    """Say why no SLURM can be started here; "" if it can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"SLURM is not installed (no {missing[0]}): apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "only root can start SLURM's daemons"
    return ""


@contextmanager
def slurm(folder: Path) -> Iterator[Path]:
    """Run munge, controller and node while the block lasts; gives the path that SLURM_CONF must name.

    The caller sets SLURM_CONF for whatever shall use it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    # Two devices that are everywhere pass for GPUs
    lines = [f"Name=gpu Flags=nvidia_gpu_env File={device}\n" for device in ("/dev/null", "/dev/zero")]
    (folder / "gres.conf").write_text("".join(lines))
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    configuration = folder / "slurm.conf"
    ports = _free_ports(2)
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder, host=socket.gethostname(), controller_port=ports[0], node_port=ports[1]
        )
    )
    files = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("socket", "pid-file", "log-file")]
    munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--seed-file={folder}/seed", *files]
    with ExitStack() as stack:
        _start(stack, munged, folder)
        _wait_for(lambda: (folder / "munge.socket").exists(), "munged")
        _start(stack, ["slurmctld", "-D", "-f", str(configuration)], folder)
        _start(stack, ["slurmd", "-D", "-f", str(configuration)], folder)
        _wait_for(lambda: "idle" in _query(["sinfo", "-h", "-o", "%t"], configuration), "the node")
        stack.callback(_cancel_all, configuration)
        yield configuration


@pytest.fixture(scope="session")
def slurm_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One SLURM for all tests that ask for it; gives its configuration, for SLURM_CONF."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with slurm(tmp_path_factory.mktemp("slurm")) as configuration, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(configuration))
        yield configuration


def jobs(configuration: Path) -> dict[str, str]:
    """Give the state of every job in the queue, by number."""
    lines = _query(["squeue", "-h", "-o", "%A %T"], configuration).splitlines()
    return dict(line.split() for line in lines)


def _query(command: list[str], configuration: Path) -> str:
    environment = os.environ | {"SLURM_CONF": str(configuration)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30).stdout


def _cancel_all(configuration: Path) -> None:
    """Leave no job behind, as root may."""
    _query(["scancel", "-u", "root"], configuration)
    _wait_for(lambda: not jobs(configuration), "the queue to empty", 15)


def _start(stack: ExitStack, command: list[str], folder: Path) -> None:
    command = ["setpriv", "--pdeathsig", "TERM", *command]  # not to outlive a test that is killed
    with open(folder / f"{command[3]}.out", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    stack.callback(_stop, process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for(condition, what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
