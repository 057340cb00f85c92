"""A private Slurm cluster on this machine: a controller, accounting with its database, and nodes that can be killed."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support.servers import HOST, free_port, until

PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacct")
PACKAGES = "munge mariadb-server slurmdbd slurmctld slurmd slurm-client"
FOLDERS = "/usr/sbin:/usr/bin:/sbin:/bin"
START = 60.0  # seconds

SLURM_CONF = """
ClusterName=gradvitals
SlurmctldHost={machine}({host})
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,requeue_delay=0
SlurmdParameters=config_overrides
SlurmdTimeout=5
SlurmctldTimeout=10
InactiveLimit=0
KillWait=5
MinJobAge=300
ReturnToService=2
JobRequeue=1
MessageTimeout=20
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={host}
AccountingStoragePort={accounting_port}
AccountingStoragePass={folder}/munge.socket
JobAcctGatherType=jobacct_gather/none
{nodes}
PartitionName=main Nodes={names} Default=YES MaxTime=60 State=UP
"""
SLURMDBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={machine}
DbdAddr={host}
DbdPort={accounting_port}
SlurmUser={user}
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost={host}
StoragePort={database_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=accounting
"""
ACCOUNTING_SQL = """
CREATE DATABASE accounting;
CREATE USER 'slurm'@'localhost' IDENTIFIED BY 'slurm';
GRANT ALL ON accounting.* TO 'slurm'@'localhost';
FLUSH PRIVILEGES;
"""


def missing_programs() -> list[str]:
    """Return the programs of a Slurm cluster that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:{FOLDERS}") is None]


@dataclass
class Slurm:
    """A cluster of one CPU a node, on loopback. Its daemons are processes of this one.

    Args:
        count: The number of nodes.
    """

    count: int = 3
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="gradvitals-slurm-")))
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes."""
        return [f"node{number}" for number in range(1, self.count + 1)]

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a process that uses the cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:{FOLDERS}"}

    def start(self) -> None:
        """Start all daemons and wait until every node is idle."""
        self._configure()
        self._start_munge()
        self._start_database()
        self._start("slurmdbd", "slurmdbd", "-D")
        until(lambda: self._succeeds("sacctmgr", "-i", "list", "cluster"), "slurmdbd", START)
        self._succeeds("sacctmgr", "-i", "add", "cluster", "gradvitals")
        self._succeeds("sacctmgr", "-i", "add", "account", "lab", "Cluster=gradvitals")
        self._succeeds("sacctmgr", "-i", "add", "user", pwd.getpwuid(os.geteuid()).pw_name, "Account=lab")
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        until(lambda: self._idle() == self.count, f"the nodes (see {self.folder})", START)

    def _configure(self) -> None:
        ports = [free_port() for _ in range(3 + self.count)]
        machine, user = os.uname().nodename, pwd.getpwuid(os.geteuid()).pw_name
        nodes = [
            f"NodeName={name} NodeHostname={machine} NodeAddr={HOST} Port={port} CPUs=1 RealMemory=4000 State=UNKNOWN"
            for name, port in zip(self.nodes, ports[3:], strict=True)
        ]
        facts = {
            "machine": machine,
            "host": HOST,
            "user": user,
            "folder": self.folder,
            "controller_port": ports[0],
            "accounting_port": ports[1],
            "database_port": ports[2],
            "nodes": "\n".join(nodes),
            "names": ",".join(self.nodes),
        }
        self._database_port = ports[2]
        self.folder.chmod(0o755)
        for name in ("state", "database", *(f"spool-{node}" for node in self.nodes)):
            (self.folder / name).mkdir()
        for name, text in (("slurm.conf", SLURM_CONF), ("slurmdbd.conf", SLURMDBD_CONF)):
            path = self.folder / name
            path.write_text(text.format(**facts))
            path.chmod(0o600 if name == "slurmdbd.conf" else 0o644)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        kinds = {"key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed", "socket": "socket"}
        options = [f"--{option}={self.folder}/munge.{kind}" for option, kind in kinds.items()]
        self._start("munged", "munged", "--foreground", "--force", *options)
        until((self.folder / "munge.socket").exists, "munge", START)

    def _start_database(self) -> None:
        data, owner = self.folder / "database", "mysql" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        if os.geteuid() == 0:
            shutil.chown(data, owner, grp.getgrgid(pwd.getpwnam(owner).pw_gid).gr_name)
        options = [f"--datadir={data}", f"--user={owner}"]
        self._run("mariadb-install-db", "--no-defaults", *options, "--auth-root-authentication-method=normal")
        init = data / "init.sql"
        init.write_text(ACCOUNTING_SQL)
        shutil.chown(init, owner)
        options += [f"--socket={data}/socket", f"--bind-address={HOST}", f"--port={self._database_port}"]
        options += [f"--pid-file={data}/pid", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M"]
        self._start("mariadbd", "mariadbd", "--no-defaults", *options, f"--init-file={init}")
        client = ["mariadb", "--no-defaults", f"--host={HOST}", f"--port={self._database_port}", "--user=slurm"]
        until(lambda: self._succeeds(*client, "--password=slurm", "-e", "use accounting"), "MariaDB", START)

    def start_controller(self) -> None:
        """Start the controller and wait until it answers."""
        self._start("slurmctld", "slurmctld", "-D")
        until(lambda: self._succeeds("scontrol", "ping") and "UP" in self.run("scontrol", "ping"), "slurmctld", START)

    def kill_controller(self) -> None:
        """Kill the controller. Tasks that run go on."""
        self._kill("slurmctld")

    def start_node(self, name: str) -> None:
        """Start a node."""
        self._start(name, "slurmd", "-D", "-N", name)

    def kill_node(self, name: str) -> None:
        """Kill a node with everything that runs on it, as a power failure does."""
        self._kill(name)
        for process in self.processes_on(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def lose_node(self, name: str) -> None:
        """Kill a node's daemons, but not the tasks that run on it: as if it had lost the network."""
        self._kill(name)
        for process in self._step_daemons(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        until(lambda: not self._step_daemons(name), "the step daemons die", START)

    def _step_daemons(self, name: str) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (folder / "cmdline").read_bytes().startswith(b"slurmstepd") and self._node_of(
                    int(folder.name)
                ) == name:
                    found.append(int(folder.name))
        return found

    def processes_on(self, name: str) -> list[int]:
        """Return the processes of the jobs on a node: the steps' daemons first, then their tasks."""
        tasks = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                variables = (folder / "environ").read_bytes().split(b"\0")
                if f"SLURMD_NODENAME={name}".encode() in variables and self._is_own(variables):
                    tasks.append(int(folder.name))
        return [*self._step_daemons(name), *tasks]

    def _is_own(self, variables: Sequence[bytes]) -> bool:
        return f"SLURM_CONF={self.folder / 'slurm.conf'}".encode() in variables

    def _node_of(self, process: int) -> str | None:
        """Return the node of a step's daemon: it keeps the node's log open."""
        for link in Path(f"/proc/{process}/fd").glob("*"):
            with contextlib.suppress(OSError):
                target = link.readlink()
                if target.parent == self.folder and target.name.startswith("slurmd-"):
                    return target.stem.removeprefix("slurmd-")
        return None

    def run(self, *command: str) -> str:
        """Run one of Slurm's commands and return its output."""
        return self._run(*command).stdout

    def stop(self) -> None:
        """Stop all daemons and remove their files."""
        with contextlib.suppress(subprocess.SubprocessError):
            self._run("scancel", "--user", pwd.getpwuid(os.geteuid()).pw_name, timeout=20)
        for node in self.nodes:
            self.kill_node(node)
        for name in reversed(list(self._processes)):
            self._kill(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _idle(self) -> int:
        return self.run("sinfo", "-h", "-N", "-o", "%T").split().count("idle")

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._whole_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        time.sleep(0.1)
        assert self._processes[name].poll() is None, (self.folder / f"{name}.out").read_text()

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait(timeout=30)

    def _whole_environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}

    def _run(self, *command: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self._whole_environment(), capture_output=True, text=True, check=True, timeout=timeout
        )

    def _succeeds(self, *command: str) -> bool:
        try:
            self._run(*command)
        except subprocess.SubprocessError:
            return False
        return True
