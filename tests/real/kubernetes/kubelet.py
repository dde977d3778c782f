"""Plays scheduler, kubelet and service proxy of one node: runs the commands of pods as processes of this machine.

Test equipment, for there is no container engine here; what it speaks to is a real API server. A container is a process
in namespaces of its own (bubblewrap): its network, with an address of the node's bridge, its process numbers, its host
name, and a read-only root in which its volumes are mounted where the pod asks for them; it runs as the pod's user
without capabilities. There is one image, which is this checkout and the environment that runs it; of any other one it
is said that it cannot be pulled. Memory that is asked for is compared with the node's, and not bounded.

    python kubelet.py SETTINGS.json
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

IMAGE = "cntk-pipeline:0.1.0"
NODE, NODE_BYTES = "node", 16 * 2**30
POLL_SECONDS = 0.25
PROBE_SECONDS = 1.0
FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS = 1.0, 20.0
ROOT = Path(__file__).parent.parent.parent.parent
UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
Manifest = dict[str, Any]


class Api:
    """The API server, spoken to as it is."""

    def __init__(self, server: str, authority: str, token: str) -> None:
        import ssl

        context = ssl.create_default_context(cafile=authority)
        self._client = httpx.Client(
            base_url=server, verify=context, headers={"Authorization": f"Bearer {token}"}, timeout=30
        )

    def call(self, method: str, path: str, body: Manifest | None = None, kind: str = "application/json") -> Manifest:
        """Call it; `httpx.HTTPStatusError` where it refuses."""
        content = None if body is None else json.dumps(body)
        answer = self._client.request(method, path, content=content, headers={"Content-Type": kind})
        if answer.is_error:
            raise httpx.HTTPStatusError(answer.text, request=answer.request, response=answer)
        return answer.json()

    def items(self, path: str) -> list[Manifest]:
        """List objects."""
        return self.call("GET", path)["items"]

    def merge(self, path: str, change: Manifest) -> None:
        """Change an object."""
        self.call("PATCH", path, change, "application/merge-patch+json")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def main_process(sandbox: int) -> int | None:
    """Find process 1 of a container, with which all others of it die: the child of the one that was started."""
    with contextlib.suppress(FileNotFoundError):
        children = Path(f"/proc/{sandbox}/task/{sandbox}/children").read_text().split()
        return int(children[0]) if children else None
    return None


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def bound(folders: Iterable[Path]) -> list[str]:
    """Write the options that show folders of this machine in a container."""
    there = [folder for folder in folders if folder.exists()]
    return [word for folder in there for word in (*folders_above(folder), "--ro-bind", str(folder), str(folder))]


def folders_above(place: Path) -> list[str]:
    """Let everybody pass the folders above a place in a sandbox, which would be for root alone."""
    return [word for parent in reversed(place.parents[:-1]) for word in ("--perms", "0755", "--dir", str(parent))]


@dataclass
class Container:
    """A pod on this node, with its only container."""

    pod: Manifest
    folder: Path
    space: str
    address: str
    process: subprocess.Popen[bytes] | None = None
    started: str = ""
    restarts: int = 0
    ended: Manifest | None = None
    waits_until: float = 0.0
    killed_at: float | None = None
    ready: bool = False
    probe: subprocess.Popen[bytes] | None = None
    probed: float = 0.0
    shown: Manifest = field(default_factory=dict)

    @property
    def path(self) -> str:
        metadata = self.pod["metadata"]
        return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"

    @property
    def described(self) -> Manifest:
        (container,) = self.pod["spec"]["containers"]
        return container

    @property
    def log(self) -> Path:
        return self.folder.parent.parent / "log" / f"{self.pod['metadata']['name']}.log"

    def main_process(self) -> int | None:
        """Find process 1 of the container; None where nothing runs."""
        return None if self.process is None or self.process.poll() is not None else main_process(self.process.pid)

    def signal(self, number: int) -> None:
        """Send a signal to process 1."""
        main = self.main_process()
        with contextlib.suppress(ProcessLookupError):
            if main is not None:
                os.kill(main, number)


class Kubelet:
    """The node.

    Parameters
    ----------
    settings : mapping of str to str
        Server, authority and token of the API server; folder, for volumes and logs; compiled, for what numba compiles;
        bridge and network ("10.79.0"), whose address .1 the API server has.
    """

    def __init__(self, settings: dict[str, str]) -> None:
        self.api = Api(settings["server"], settings["authority"], settings["token"])
        self.folder, self.bridge, self.network = Path(settings["folder"]), settings["bridge"], settings["network"]
        self.server = settings["server"]
        self.containers: dict[str, Container] = {}
        self.unschedulable: set[str] = set()
        self.hosts = self.folder / "hosts"
        self.last_address = 9
        self.compiled = Path(settings["compiled"])
        for folder in (self.compiled, *(self.folder / name for name in ("pods", "log", "claims", "processes"))):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o777)
        self.hosts.write_text("127.0.0.1 localhost\n")

    def run(self) -> None:
        """Look at all pods again and again."""
        while True:
            try:
                pods = {pod["metadata"]["uid"]: pod for pod in self.api.items("/api/v1/pods")}
            except httpx.TransportError:
                return  # the API server has gone, and this node with it
            for uid, pod in pods.items():
                with contextlib.suppress(httpx.HTTPStatusError):  # it changed meanwhile: the next look sees how
                    self.look_at(uid, pod)
            for uid in self.containers.keys() - pods.keys():
                self.remove(self.containers.pop(uid))
            self.write_hosts()
            time.sleep(POLL_SECONDS)

    def look_at(self, uid: str, pod: Manifest) -> None:
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
        if not pod["spec"].get("nodeName"):
            self.schedule(uid, pod, path)
            return
        container = self.containers.get(uid)
        if container is None:
            if pod["metadata"].get("deletionTimestamp"):
                self.api.call("DELETE", path, {"gracePeriodSeconds": 0})
                return
            container = self.containers[uid] = self.admit(uid, pod)
        container.pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self.end(container)
        else:
            self.follow(container)
            self.report(container)

    def schedule(self, uid: str, pod: Manifest, path: str) -> None:
        (container,) = pod["spec"]["containers"]
        asked = container.get("resources", {}).get("requests", {}).get("memory", "0")
        number, unit = re.fullmatch(r"(\d+)(\D*)", asked).groups()  # type: ignore[union-attr]
        if int(number) * UNITS[unit] > NODE_BYTES:
            if uid not in self.unschedulable:
                self.unschedulable.add(uid)
                message = "0/1 nodes are available: 1 Insufficient memory."
                condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
                self.api.merge(f"{path}/status", {"status": {"conditions": [condition]}})
            return
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod["metadata"]["name"]}}
        self.api.call("POST", f"{path}/binding", binding | {"target": {"kind": "Node", "name": NODE}})

    def admit(self, uid: str, pod: Manifest) -> Container:
        """Give a pod its network."""
        self.last_address += 1
        number = self.last_address
        space, cable = f"{self.bridge}p{number}", f"{self.bridge}v{number}"
        ip("netns", "add", space)
        ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("link", "set", cable, "master", self.bridge, "up")
        ip("-n", space, "link", "set", "lo", "up")
        address = f"{self.network}.{number}"
        ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")
        folder = self.folder / "pods" / uid
        folder.mkdir()
        return Container(pod, folder, space, address)

    def remove(self, container: Container) -> None:
        if container.process is not None:
            container.signal(signal.SIGKILL)
            container.process.kill()  # one that has not begun yet
            container.process.wait()
        subprocess.run(["ip", "netns", "del", container.space], capture_output=True)
        shutil.rmtree(container.folder, ignore_errors=True)

    def end(self, container: Container) -> None:
        """End a pod that was deleted: with a warning, and by force when its time of grace is over."""
        if container.process is None or container.process.poll() is not None:
            self.api.call("DELETE", container.path, {"gracePeriodSeconds": 0})
            return
        if container.killed_at is None:
            container.signal(signal.SIGTERM)
            container.killed_at = time.monotonic() + container.pod["metadata"]["deletionGracePeriodSeconds"]
        elif time.monotonic() > container.killed_at:
            container.signal(signal.SIGKILL)

    def follow(self, container: Container) -> None:
        """Start a container, start it again where it ended and the pod asks for that, and ask whether it is ready."""
        process = container.process
        if process is not None and process.poll() is not None:
            self.note_end(container)
        runs_on = container.ended is None or self.restarted(container)
        if container.process is None and runs_on and time.monotonic() >= container.waits_until:
            self.start(container)
        self.ask_whether_ready(container)

    def note_end(self, container: Container) -> None:
        assert container.process is not None
        code = container.process.returncode
        code = 128 - code if code < 0 else code
        ended = {"exitCode": code, "startedAt": container.started, "finishedAt": now()}
        ended["reason"] = "Completed" if code == 0 else "Error"
        if code and container.described.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            ended["message"] = container.log.read_text(errors="replace")[-2048:]
        container.process, container.ended, container.ready = None, ended, False
        container.waits_until = time.monotonic() + min(
            FIRST_BACKOFF_SECONDS * 2**container.restarts, LAST_BACKOFF_SECONDS
        )

    def restarted(self, container: Container) -> bool:
        policy = container.pod["spec"]["restartPolicy"]
        assert container.ended is not None
        return policy == "Always" or (policy == "OnFailure" and container.ended["exitCode"] != 0)

    def start(self, container: Container) -> None:
        described = container.described
        if described["image"] != IMAGE:
            return
        volumes = self.volumes(container)
        if volumes is None:
            return
        command = self.sandbox(container, volumes)
        with container.log.open("ab") as log:
            container.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        (self.folder / "processes" / container.pod["metadata"]["name"]).write_text(str(container.process.pid))
        container.started = now()
        container.restarts += container.ended is not None

    def volumes(self, container: Container) -> dict[str, Path] | None:
        """Make the volumes of a pod, by name; None where one is not there yet."""
        made = {}
        user = container.pod["spec"]["securityContext"]["runAsUser"]
        namespace = container.pod["metadata"]["namespace"]
        for volume in container.pod["spec"].get("volumes", []):
            folder = container.folder / volume["name"]
            if "persistentVolumeClaim" in volume:
                folder = self.folder / "claims" / volume["persistentVolumeClaim"]["claimName"]
            folder.mkdir(exist_ok=True)
            os.chown(folder, user, user)
            for kind, name in (("secret", "secretName"), ("configMap", "name")):
                if kind in volume:
                    try:
                        held = self.api.call("GET", f"/api/v1/namespaces/{namespace}/{kind}s/{volume[kind][name]}")
                    except httpx.HTTPStatusError:
                        return None
                    for file, content in (held.get("data") or {}).items():
                        (folder / file).write_bytes(b64decode(content) if kind == "secret" else content.encode())
                        os.chown(folder / file, 0, user)
                        (folder / file).chmod(volume[kind].get("defaultMode", 0o644) | 0o040)
            made[volume["name"]] = folder
        return made

    def sandbox(self, container: Container, volumes: dict[str, Path]) -> list[str]:
        """Write the command line that runs a container."""
        described, pod = container.described, container.pod
        user = str(pod["spec"]["securityContext"]["runAsUser"])
        variables = self.variables(container)
        command = ["nsenter", f"--net=/run/netns/{container.space}", "bwrap", "--cap-add", "ALL", "--die-with-parent"]
        command += ["--unshare-pid", "--as-pid-1", "--unshare-uts", "--hostname", pod["metadata"]["name"]]
        command += ["--unshare-ipc", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm", "--chdir", "/"]
        command += ["--chmod", "1777", "/dev/shm"]
        command += bound(Path(name) for name in ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc"))
        command += ["--ro-bind", str(self.hosts), "/etc/hosts"]
        for mount in described.get("volumeMounts", []):
            bind = "--ro-bind" if mount.get("readOnly") else "--bind"
            command += folders_above(Path(mount["mountPath"]))
            command += [bind, str(volumes[mount["name"]]), mount["mountPath"]]
            if mount["mountPath"] == "/tmp":  # a node keeps what was compiled on it
                command += ["--bind", str(self.compiled), "/tmp/numba"]
        command += bound([Path(sys.base_prefix), Path(sys.prefix), ROOT])  # may lie in /tmp, a volume
        command += ["--clearenv"]
        for name, value in variables.items():
            command += ["--setenv", name, value]
        command += ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"]
        command += ["--bounding-set=-all", "--inh-caps=-all"]
        words = [*described["command"], *described.get("args", [])]
        return command + [re.sub(r"\$\((\w+)\)", lambda m: variables.get(m[1], m[0]), word) for word in words]

    def variables(self, container: Container) -> dict[str, str]:
        metadata = container.pod["metadata"]
        host, port = self.server.removeprefix("https://").split(":")
        made = {
            "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
            "HOME": "/",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(ROOT / "pipeline"),
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": port,
        }
        for source in container.described.get("envFrom", []):
            with contextlib.suppress(httpx.HTTPStatusError):
                secret = f"/api/v1/namespaces/{metadata['namespace']}/secrets/{source['secretRef']['name']}"
                data = self.api.call("GET", secret).get("data") or {}
                made |= {name: b64decode(value).decode() for name, value in data.items()}
        for variable in container.described.get("env", []):
            value = variable.get("value", "")
            if "valueFrom" in variable:
                value = metadata[variable["valueFrom"]["fieldRef"]["fieldPath"].removeprefix("metadata.")]
            made[variable["name"]] = value
        return made

    def ask_whether_ready(self, container: Container) -> None:
        main = container.main_process()
        probe = container.described.get("readinessProbe")
        if main is None or container.ready:
            return
        if probe is None:
            container.ready = True
        elif container.probe is not None:
            if container.probe.poll() is not None:
                container.ready, container.probe = container.probe.returncode == 0, None
        elif time.monotonic() - container.probed > PROBE_SECONDS:
            container.probed = time.monotonic()
            command = ["nsenter", f"--target={main}", "--mount", "--net", "--pid", *probe["exec"]["command"]]
            environment = os.environ | {"PATH": f"{sys.prefix}/bin:/usr/bin:/bin"}
            container.probe = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )

    def report(self, container: Container) -> None:
        """Write a pod's status, where it has changed."""
        status = self.status(container)
        if status != container.shown:
            self.api.merge(f"{container.path}/status", {"status": status})
            container.shown = status

    def status(self, container: Container) -> Manifest:
        state: Manifest
        phase = "Running"
        if container.process is not None:
            state = {"running": {"startedAt": container.started}}
        elif container.ended is None:
            phase = "Pending"
            image = container.described["image"]
            absent = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}"'}
            state = {"waiting": {"reason": "ContainerCreating"} if image == IMAGE else absent}
        elif self.restarted(container):
            state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting failed container"}}
        else:
            phase = "Failed" if container.ended["exitCode"] else "Succeeded"
            state = {"terminated": container.ended}
        shown = {
            "name": container.described["name"],
            "image": container.described["image"],
            "imageID": "",
            "ready": container.ready,
            "restartCount": container.restarts,
            "state": {"running": None, "waiting": None, "terminated": None} | state,
            "lastState": {"terminated": container.ended} if container.ended and phase == "Running" else {},
        }
        ready = "True" if container.ready else "False"
        return {
            "phase": phase,
            "podIP": container.address,
            "podIPs": [{"ip": container.address}],
            "hostIP": f"{self.network}.1",
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Initialized", "status": "True"},
                {"type": "ContainersReady", "status": ready},
                {"type": "Ready", "status": ready},
            ],
            "containerStatuses": [shown],
        }

    def write_hosts(self) -> None:
        """Name the services, each by the address of a pod that is ready; one without any refuses connections."""
        lines = ["127.0.0.1 localhost"]
        for endpoints in self.api.items("/api/v1/endpoints"):
            name, namespace = endpoints["metadata"]["name"], endpoints["metadata"]["namespace"]
            ready = [a["ip"] for subset in endpoints.get("subsets") or [] for a in subset.get("addresses") or []]
            names = [f"{name}.{namespace}{end}" for end in ("", ".svc", ".svc.cluster.local")]
            lines.append(" ".join([ready[0] if ready else "127.0.0.66", *names]))
        text = "\n".join(lines) + "\n"
        if text != self.hosts.read_text():
            self.hosts.write_text(text)  # the same file, which is mounted everywhere


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    kubelet = Kubelet(json.loads(Path(sys.argv[1]).read_text()))
    try:
        kubelet.run()
    finally:
        for left in kubelet.containers.values():
            kubelet.remove(left)
