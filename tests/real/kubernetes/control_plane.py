"""A Kubernetes of our own on this machine: etcd, API server, controllers and the Dask operator, and a node of ours."""

import base64
import contextlib
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask_kubernetes
import httpx
import yaml
from real.kubernetes.kubelet import NODE, Api, Manifest, ip, main_process
from support.processes import wait_until

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "bwrap", "nsenter", "setpriv", "ip", "openssl")
COMPILED = Path("/var/tmp/cntk-kubernetes-compiled")
"""What numba compiled on the node: it stays there from one session to the next."""
CONTROLLERS = (
    *("deployment", "replicaset", "job", "endpoint", "garbagecollector", "namespace"),
    *("serviceaccount", "serviceaccount-token"),
)
AUDIT = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, userGroups: ["system:serviceaccounts:default"]}
- {level: None}
"""
OPERATOR = Path(dask_kubernetes.__file__).parent / "operator" / "deployment" / "helm" / "dask-kubernetes-operator"


def programs_on_path() -> str:
    """Return PATH with the folder that CNTK_KUBERNETES names, where tests/real/kubernetes/build.sh puts programs."""
    return os.pathsep.join([os.environ.get("CNTK_KUBERNETES", ""), os.environ["PATH"], "/usr/sbin", "/sbin"])


@dataclass(frozen=True)
class PrivateKubernetes:
    """A running cluster.

    Attributes
    ----------
    folder : Path
        With ``log``, what each pod and each part of the cluster prints, and ``claims``, its volumes by claim.
    api : Api
        Its API server, asked as its administrator.
    server, authority
        Where that is, and the file that certifies it.
    """

    folder: Path
    api: Api
    server: str
    authority: Path

    def apply(self, documents: list[Manifest]) -> None:
        """Create objects."""
        for document in documents:
            group, _, version = document["apiVersion"].rpartition("/")
            kind = document["kind"].lower() + "s"
            root = f"/apis/{group}/{version}" if group else f"/api/{version}"
            within = "" if kind in ("customresourcedefinitions", "nodes") else "namespaces/default/"
            self.api.call("POST", f"{root}/{within}{kind}", document)

    def pods(self, selector: str = "") -> list[Manifest]:
        """List pods of the default namespace."""
        return self.api.items(f"/api/v1/namespaces/default/pods?labelSelector={selector}")

    def names(self, kind: str) -> list[str]:
        """List the names of objects: "pods", or "kubernetes.dask.org/v1/daskclusters"."""
        group, _, plural = kind.rpartition("/")
        root = f"/apis/{group}" if group else "/api/v1"
        return [found["metadata"]["name"] for found in self.api.items(f"{root}/namespaces/default/{plural}")]

    def kubeconfig(self, path: Path, token: str) -> Path:
        """Write what a user of the cluster has at home."""
        cluster = {"server": self.server, "certificate-authority-data": _encoded(self.authority.read_bytes())}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
        }
        path.write_text(yaml.safe_dump(content))
        path.chmod(0o600)
        return path

    def token_of(self, account: str) -> str:
        """Return the token of a service account."""

        def find() -> str | None:
            for secret in self.api.items("/api/v1/namespaces/default/secrets"):
                annotations = secret["metadata"].get("annotations", {})
                if annotations.get("kubernetes.io/service-account.name") == account and "token" in secret["data"]:
                    return base64.b64decode(secret["data"]["token"]).decode()
            return None

        wait_until(lambda: find() is not None, f"a token of {account}")
        token = find()
        assert token is not None
        return token

    def rights_used(self, account: str) -> set[tuple[str, str]]:
        """Return what a service account has asked of the API server and got, as verbs and kinds of objects."""
        return {
            (call["verb"], call["objectRef"]["resource"])
            for call in self._calls()
            if call["user"]["username"] == f"system:serviceaccount:default:{account}"
            and call["responseStatus"]["code"] != 403
        }

    def refused(self) -> list[str]:
        """Return what service accounts have asked of the API server and were not allowed."""
        return [f"{c['user']['username']}: {c['verb']} {c['requestURI']}" for c in self._calls(403)]

    def _calls(self, code: int | None = None) -> list[Manifest]:
        """Read the calls of objects that service accounts made, all or those that were answered with a code."""
        calls = [json.loads(line) for line in (self.folder / "audit.log").read_text().splitlines()]
        return [c for c in calls if "objectRef" in c and code in (None, c["responseStatus"]["code"])]

    def execute(self, pod: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a pod, as `kubectl exec` does."""
        main = self._main_process(pod)
        variables = Path(f"/proc/{main}/environ").read_text().split("\0")
        user = Path(f"/proc/{main}/status").read_text().partition("Uid:")[2].split()[0]
        spaces = ["nsenter", f"--target={main}", "--mount", "--net", "--uts", "--ipc", "--pid"]
        rights = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"]
        words = [*spaces, *rights, "env", "--chdir=/tmp", "-i", *filter(None, variables), *command]
        return subprocess.run(words, capture_output=True, text=True, timeout=400)

    def kill(self, pod: str) -> None:
        """Kill what a pod runs."""
        os.kill(self._main_process(pod), signal.SIGKILL)

    def _main_process(self, pod: str) -> int:
        main = main_process(int((self.folder / "processes" / pod).read_text()))
        assert main is not None, f"{pod} runs nothing"
        return main

    def describe(self) -> str:
        """Tell what there is, for a test that waited in vain."""
        lines = [f"{pod['metadata']['name']} {json.dumps(pod['status'])}" for pod in self.pods()]
        for log in sorted((self.folder / "log").iterdir()):
            lines += [f"--- {log.name}", log.read_text(errors="replace")[-1500:]]
        return "\n".join(lines)


@contextlib.contextmanager
def private_kubernetes(folder: Path) -> Iterator[PrivateKubernetes]:
    """Start a cluster with the Dask operator and one node, and end it with everything that it runs."""
    bridge = f"ck{os.getpid()}"
    network = f"10.{64 + os.getpid() // 256 % 64}.{os.getpid() % 256}"  # another session may run beside this one
    (folder / "log").mkdir(parents=True)
    os.chmod(folder, 0o755)
    with contextlib.ExitStack() as stack:
        ip("link", "add", bridge, "type", "bridge")
        stack.callback(ip, "link", "del", bridge)
        ip("addr", "add", f"{network}.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")

        def start(name: str, *command: str, **environment: str) -> None:
            with (folder / "log" / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    env=os.environ | {"PATH": programs_on_path()} | environment,
                    cwd=folder,
                )
            stack.callback(_end, process)

        etcd, etcd_peers, port = _free_port("127.0.0.1"), _free_port("127.0.0.1"), _free_port(f"{network}.1")
        token = secrets.token_hex()
        server, authority = f"https://{network}.1:{port}", folder / "server.pem"
        _make_keys(folder, network, token)
        (folder / "audit.yaml").write_text(AUDIT)
        storage, peers = f"http://127.0.0.1:{etcd}", f"http://127.0.0.1:{etcd_peers}"
        start(
            *("etcd", "etcd", f"--data-dir={folder}/etcd", "--unsafe-no-fsync"),
            *(f"--listen-client-urls={storage}", f"--advertise-client-urls={storage}"),
            *(f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}"),
            f"--initial-cluster=default={peers}",
        )
        start(
            *("kube-apiserver", "kube-apiserver", f"--etcd-servers={storage}"),
            *(f"--bind-address={network}.1", f"--advertise-address={network}.1"),
            *(f"--secure-port={port}", f"--cert-dir={folder}"),
            *("--insecure-port=0", "--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.96.0.0/24"),
            *(f"--tls-cert-file={authority}", f"--tls-private-key-file={folder}/server.key"),
            *("--authorization-mode=RBAC", f"--token-auth-file={folder}/tokens.csv"),
            *(f"--service-account-issuer={server}", f"--service-account-key-file={folder}/accounts.key"),
            f"--service-account-signing-key-file={folder}/accounts.key",
            *(f"--audit-policy-file={folder}/audit.yaml", f"--audit-log-path={folder}/audit.log"),
        )
        api = Api(server, str(authority), token)
        cluster = PrivateKubernetes(folder, api, server, authority)
        wait_until(lambda: _answers(server, authority, token), "the API server")
        config = cluster.kubeconfig(folder / "admin.yaml", token)
        start(
            *("kube-controller-manager", "kube-controller-manager", f"--kubeconfig={config}", "--leader-elect=false"),
            *("--port=0", "--secure-port=0", f"--controllers={','.join(CONTROLLERS)}"),
            *(f"--service-account-private-key-file={folder}/accounts.key", f"--root-ca-file={authority}"),
        )
        for file in sorted((OPERATOR / "crds").iterdir()):
            cluster.apply(list(yaml.safe_load_all(file.read_text())))
        wait_until(lambda: _serves(api, "daskclusters"), "the operator's kinds of objects")
        operator = ("kopf", "run", "-m", "dask_kubernetes.operator.controller", "--namespace=default", "--standalone")
        # What resolves names of services is in the pods alone; the operator asks once and goes on.
        start("operator", sys.executable, "-m", *operator, KUBECONFIG=str(config))
        wait_until(lambda: "default" in cluster.names("serviceaccounts"), "the default service account")
        cluster.apply([{"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}])
        settings = {"server": server, "authority": str(authority), "token": token}
        settings |= {"compiled": str(COMPILED), "folder": str(folder), "bridge": bridge, "network": network}
        (folder / "kubelet.json").write_text(json.dumps(settings))
        stack.callback(_remove_spaces, bridge)
        start("kubelet", sys.executable, str(Path(__file__).parent / "kubelet.py"), str(folder / "kubelet.json"))
        wait_until(lambda: (folder / "hosts").exists(), "the node")
        yield cluster


def _make_keys(folder: Path, network: str, token: str) -> None:
    (folder / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
    key = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(folder / "server.key"), "-out", str(folder / "server.pem")]
    name = ["-subj", "/CN=kube-apiserver", "-addext", f"subjectAltName=IP:{network}.1", "-days", "2"]
    subprocess.run(["openssl", "req", "-x509", *key, *name], check=True, capture_output=True)
    accounts = ["openssl", "genrsa", "-out", str(folder / "accounts.key"), "2048"]
    subprocess.run(accounts, check=True, capture_output=True)


def _answers(server: str, authority: Path, token: str) -> bool:
    context = ssl.create_default_context(cafile=str(authority))
    with contextlib.suppress(httpx.TransportError):
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.get(f"{server}/readyz", verify=context, headers=headers).status_code == 200
    return False


def _serves(api: Api, plural: str) -> bool:
    with contextlib.suppress(httpx.HTTPStatusError):
        api.items(f"/apis/kubernetes.dask.org/v1/namespaces/default/{plural}")
        return True
    return False


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _remove_spaces(bridge: str) -> None:
    for line in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.splitlines():
        if line.startswith(f"{bridge}p"):
            name = line.split()[0]
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
            subprocess.run(["ip", "link", "del", name.replace(f"{bridge}p", f"{bridge}v")], capture_output=True)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()
