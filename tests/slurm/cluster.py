"""A Slurm of one node on this machine, of this user, in a folder of its own: munged, slurmctld and slurmd, no systemd.

Debian's packages slurmctld, slurmd, slurm-client and munge; no accounting.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={controller}
SlurmdPort={node}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
MinJobAge=7200
KillWait=60
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 State=UP
"""


def missing() -> list[str]:
    """Debian packages of what is not installed here."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return [package for program, package in PROGRAMS.items() if shutil.which(program, path=path) is None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Cluster:
    folder: Path
    daemons: list[subprocess.Popen] = field(default_factory=list)
    logs: dict[str, Path] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return socket.gethostname().partition(".")[0]

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.folder / "bin"), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def start(self) -> None:
        """Raises RuntimeError with the daemons' last lines where the node isn't idle within half a minute."""
        for name in (".", "state", "spool", "bin"):
            (self.folder / name).mkdir(mode=0o755, exist_ok=True)
        srun = self.folder / "bin" / "srun"  # the plug-in drops SLURM_CONF; elsewhere it is /etc/slurm/slurm.conf
        srun.write_text(f'#!/bin/sh\nexec env SLURM_CONF={self.folder}/slurm.conf {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        conf = CONF.format(
            host=self.host,
            user=getpass.getuser(),
            folder=self.folder,
            controller=free_port(),
            node=free_port(),
        )
        (self.folder / "slurm.conf").write_text(conf)
        places = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={self.folder}/munge.{suffix}" for option, suffix in places.items()]
        self._launch("munged", "--foreground", "--force", *options)
        self._wait(lambda: (self.folder / "munge.socket").exists())
        self._launch("slurmctld", "-D")
        self._launch("slurmd", "-D")
        self._wait(lambda: "idle" in self.ask("sinfo", "--noheader", "--format=%T"))

    def _launch(self, *command: str) -> None:
        self.logs[command[0]] = self.folder / f"{command[0]}.log"
        with self.logs[command[0]].open("w") as log:
            self.daemons.append(
                subprocess.Popen(
                    command, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            )

    def _wait(self, ready) -> None:
        end = time.monotonic() + 30
        while not ready():
            if time.monotonic() > end or any(daemon.poll() is not None for daemon in self.daemons):
                log_ends = {name: log.read_text()[-1500:] for name, log in self.logs.items()}
                raise RuntimeError(f"Slurm did not start: {log_ends}")
            time.sleep(0.2)

    def ask(self, *command: str) -> str:
        """What a Slurm command prints; empty where it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=30)
        return done.stdout if done.returncode == 0 else ""

    def stop(self) -> None:
        self.ask("scancel", "--full", "--user", getpass.getuser())
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()
