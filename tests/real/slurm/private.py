"""A SLURM of our own on this machine: munged, slurmctld and a slurmd for each of two nodes, started by hand."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from support.processes import wait_until


@dataclass(frozen=True)
class PrivateSlurm:
    """A running SLURM of nodes n1 and n2.

    Attributes
    ----------
    folder : Path
        Of its configuration, state and logs.
    hosts : bool
        Whether each node has a network of its own, n1 and n2 at 10.78.0.1 and .2, which can be cut.
    """

    folder: Path
    hosts: bool

    @property
    def environment(self) -> dict[str, str]:
        """What SLURM's commands need to find it."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    @property
    def interface(self) -> str:
        """The network interface by which the nodes reach each other."""
        return "eth0" if self.hosts else "lo"

    def ask(self, *command: str) -> str:
        """Run one of SLURM's commands."""
        done = subprocess.run(
            self._inside(0, command), capture_output=True, text=True, env=os.environ | self.environment, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """Return the state of a job, as SLURM names it."""
        shown = self.ask("scontrol", "--oneliner", "show", "job", job)
        return shown.partition("JobState=")[2].partition(" ")[0]

    def node_of(self, job: str) -> str:
        """Return the node that runs the job's script."""
        return self.ask("scontrol", "--oneliner", "show", "job", job).partition("BatchHost=")[2].partition(" ")[0]

    def restarts(self, job: str) -> int:
        """Count how often a job was started again."""
        shown = self.ask("scontrol", "--oneliner", "show", "job", job)
        return int(shown.partition("Restarts=")[2].partition(" ")[0])

    def seconds(self, job: str) -> int:
        """Tell how long a job has run since it was started last."""
        *hours, minutes, seconds = self.ask("squeue", "--noheader", "--jobs", job, "--format=%M").split(":")
        return (int(hours[0]) * 60 if hours else 0) * 60 + int(minutes) * 60 + int(seconds)

    def kill_node(self, node: str) -> None:
        """Kill a node's daemon and everything that it runs."""
        daemon = psutil.Process(int((self.folder / f"slurmd.{node}.pid").read_text()))
        tasks = self._processes(lambda environment: environment.get("SLURMD_NODENAME") == node)
        # A machine that goes down tells nobody: whoever would report the end of a task goes first.
        kill([daemon, *_parents(tasks, "slurmstepd")])
        kill(tasks)

    def kill_steps(self, node: str) -> None:
        """Kill what runs on a node, but not its daemon."""
        kill(self._processes(lambda environment: environment.get("SLURMD_NODENAME") == node))

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        (self.folder / f"spool.{node}").mkdir(exist_ok=True)
        subprocess.run(
            self._inside(int(node[1:]), ["slurmd", "-N", node]),
            check=True,
            env=os.environ | self.environment,
            timeout=60,
        )

    def cut(self, node: str) -> None:
        """Take a node off the network; what it runs goes on."""
        subprocess.run(["ip", "-n", f"cntk-{node}", "link", "set", "eth0", "down"], check=True)

    def miss(self, node: str) -> None:
        """Let the controller find out at once that a node is lost, which takes it SlurmdTimeout otherwise."""
        self.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def heal(self, node: str) -> None:
        """Bring a node back to the network."""
        subprocess.run(["ip", "-n", f"cntk-{node}", "link", "set", "eth0", "up"], check=True)

    def wait_for_nodes(self, count: int = 2) -> None:
        """Wait until so many nodes are idle."""
        idle = ("sinfo", "-h", "-t", "idle", "-o", "%D")
        wait_until(lambda: self.ask(*idle) == str(count), f"{count} idle nodes", lambda: self.ask("sinfo", "-N", "-l"))

    def _processes(self, chosen: Callable[[dict[str, str]], bool]) -> list[psutil.Process]:
        """Find what runs under this SLURM by its environment: what a step starts leaves the tree of its daemon."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                # Not psutil's: it stops at a gap, and SLURM's step daemons write their titles over the beginning.
                block = Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="replace")
                environment = dict(line.split("=", 1) for line in block.split("\0") if "=" in line)
                ours = environment.get("SLURM_CONF") == self.environment["SLURM_CONF"]
                if ours and process.pid != os.getpid() and chosen(environment):
                    found.append(process)
        return found

    def _inside(self, host: int, command: tuple[str, ...] | list[str]) -> list[str]:
        # Not `ip netns exec`, which mounts another /sys: slurmd finds no control groups there.
        return [*(["nsenter", f"--net=/run/netns/cntk-n{host}"] if self.hosts else []), *command]


def _parents(processes: list[psutil.Process], name: str) -> list[psutil.Process]:
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = process.parent()
            if parent is not None and parent.name() == name:
                found.add(parent)
    return list(found)


def kill(processes: list[psutil.Process]) -> None:
    """Kill processes and wait until they are gone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


@contextlib.contextmanager
def private_slurm(folder: Path, *, hosts: bool = False) -> Iterator[PrivateSlurm]:
    """Start a SLURM of two nodes, and end it with everything that it runs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("munge", "state", "log"):
        (folder / name).mkdir(exist_ok=True)
    slurm = PrivateSlurm(folder, hosts)
    environment = os.environ | slurm.environment
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    (folder / "slurm.conf").write_text(configuration(folder, hosts))
    (folder / "gres.conf").write_text(cards(folder))
    try:
        if hosts:
            _make_hosts()
        munge = [f"--{name}={folder / place}" for name, place in _MUNGE.items()]
        subprocess.run(["munged", "--force", *munge], check=True, timeout=60)
        subprocess.run(slurm._inside(0, ["slurmctld"]), check=True, env=environment, timeout=60)
        for node in ("n1", "n2"):
            slurm.start_node(node)
        slurm.wait_for_nodes()
        yield slurm
    finally:
        _end(slurm)


_MUNGE = {
    "key-file": "munge/key",
    "socket": "munge/sock",
    "pid-file": "munge/pid",
    "log-file": "log/munged.log",
    "seed-file": "munge/seed",
}


def configuration(folder: Path, hosts: bool) -> str:
    """Write slurm.conf: two nodes of two cores on one machine."""
    name, cores = socket.gethostname().partition(".")[0], max(2, os.cpu_count() or 2)
    controller, *daemons = free_ports(3)
    lines = {
        "ClusterName": "test",
        "SlurmctldHost": f"{name}({'10.78.0.254' if hosts else '127.0.0.1'})",
        "SlurmctldPort": controller,
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder}/munge/sock,cred_expire=5",  # so long a requeued job waits
        "CredType": "cred/munge",
        "MpiDefault": "none",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "AccountingStorageType": "accounting_storage/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "DefMemPerCPU": 512,
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,bf_interval=1",
        "ReturnToService": 2,
        "SlurmctldTimeout": 10,
        "SlurmdTimeout": 60,  # a busy machine answers late: see `PrivateSlurm.miss`
        "KillWait": 2,
        "MinJobAge": 300,
        "InactiveLimit": 0,
        "WaitTime": 0,
        "StateSaveLocation": f"{folder}/state",
        "SlurmdSpoolDir": f"{folder}/spool.%n",
        "SlurmctldPidFile": f"{folder}/slurmctld.pid",
        "SlurmdPidFile": f"{folder}/slurmd.%n.pid",
        "SlurmctldLogFile": f"{folder}/log/slurmctld.log",
        "SlurmdLogFile": f"{folder}/log/slurmd.%n.log",
    }
    if not hosts:
        lines["CommunicationParameters"] = "NoInAddrAny,NoCtldInAddrAny"  # listen on the loopback only
    lines["GresTypes"] = "gpu"
    text = "".join(f"{key}={value}\n" for key, value in lines.items())
    for number in (1, 2):
        address, port = (f"10.78.0.{number}", daemons[0]) if hosts else ("127.0.0.1", daemons[number - 1])
        text += f"NodeName=n{number} NodeHostname={name} NodeAddr={address} Port={port} CPUs={cores} Sockets=1 "
        text += f"CoresPerSocket={cores} ThreadsPerCore=1 RealMemory=4000 Gres=gpu:2 State=UNKNOWN\n"
    return text + "PartitionName=debug Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP\n"


def cards(folder: Path) -> str:
    """Write gres.conf: two graphics cards a node, whose devices are none; SLURM deals them all the same."""
    for number, device in enumerate(("/dev/null", "/dev/zero")):
        (folder / f"gpu{number}").symlink_to(device)  # SLURM takes the number of a card from the end of the name
    return "".join(f"NodeName=n[1-2] Name=gpu File={folder}/gpu{number}\n" for number in (0, 1))


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on: another SLURM may be tested beside this one."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _make_hosts() -> None:
    """Give the controller and each node a network namespace, joined by a bridge."""
    commands = ["link add cntk-br type bridge", "addr add 10.78.0.253/24 dev cntk-br", "link set cntk-br up"]
    for number, address in ((0, 254), (1, 1), (2, 2)):
        space, link = f"cntk-n{number}", f"cntk-v{number}"
        commands += [
            f"netns add {space}",
            f"link add {link} type veth peer name eth0 netns {space}",
            f"link set {link} master cntk-br up",
            f"-n {space} link set lo up",
            f"-n {space} addr add 10.78.0.{address}/24 dev eth0",
            f"-n {space} link set eth0 up",
        ]
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True, timeout=30)


def _end(slurm: PrivateSlurm) -> None:
    ours = slurm._processes(lambda environment: True)
    for name in ("slurmd.n1.pid", "slurmd.n2.pid", "slurmctld.pid", "munge/pid"):
        with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
            ours.append(psutil.Process(int((slurm.folder / name).read_text())))
    kill(ours)
    if slurm.hosts:
        for number in (0, 1, 2):
            subprocess.run(["ip", "netns", "del", f"cntk-n{number}"], check=False, capture_output=True)
            subprocess.run(["ip", "link", "del", f"cntk-v{number}"], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", "cntk-br"], check=False, capture_output=True)
