"""Kubernetes manifests: against the schemas of Kubernetes and of the Dask operator, and their commands as processes."""

import copy
import functools
import importlib.util
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import jsonschema
import kubernetes_validate
import pytest
import yaml
from support.hostile import hostile_run, lay_hostile
from support.processes import free_port, wait_until

from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.clusters.dask.certificates import Certificates
from cntk_pipeline.clusters.dask.settings import SETTINGS
from cntk_pipeline.clusters.dask.signing import make_pem
from cntk_pipeline.clusters.kubernetes.manifests import (
    PORT,
    Names,
    Owner,
    cluster_manifest,
    environment,
    job_manifest,
    secret_manifest,
)
from cntk_pipeline.clusters.submitter import driver_command
from cntk_pipeline.config import ClusterConfig, load_cluster, parse_config
from cntk_pipeline.errors import ConfigError

FOLDER = Path(__file__).parent.parent.parent / "deploy" / "kubernetes"
KUBERNETES_VERSION = "1.30"
CLUSTER = ClusterConfig(
    kind="kubernetes", workers=4, memory_limit="4GiB", image="cntk-pipeline:0.1.0", volume_claim="cntk-runs"
)
Manifest = dict[str, Any]


def manifests() -> list[tuple[str, Manifest]]:
    found = [
        (path.name, document) for path in FOLDER.glob("*.yaml") for document in yaml.safe_load_all(path.read_text())
    ]
    return [(f"{name}:{document['kind']}:{document['metadata']['name']}", document) for name, document in found]


@functools.cache
def operator_schemas() -> dict[tuple[str, str], Manifest]:
    """Read the schemas that come with dask-kubernetes, by API version and kind."""
    specification = importlib.util.find_spec("dask_kubernetes")
    assert specification is not None
    assert specification.origin is not None
    folder = Path(specification.origin).parent / "operator/deployment/helm/dask-kubernetes-operator/crds"
    schemas = {}
    for path in folder.glob("*.yaml"):
        for definition in yaml.safe_load_all(path.read_text()):
            group, kind = definition["spec"]["group"], definition["spec"]["names"]["kind"]
            for version in definition["spec"]["versions"]:
                schemas[f"{group}/{version['name']}", kind] = version["schema"]["openAPIV3Schema"]
    return schemas


def closed(schema: Any) -> Any:
    """Refuse what a schema does not name: Kubernetes would drop it without a word."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    return made | (
        {"additionalProperties": False} if isinstance(schema.get("properties"), dict) and not open_ended else {}
    )


def validate(document: Manifest) -> None:
    if document["apiVersion"].startswith("kubernetes.dask.org/"):
        schema = copy.deepcopy(operator_schemas()[document["apiVersion"], document["kind"]])
        schema["properties"] = {"metadata": {}, "apiVersion": {}, "kind": {}} | {
            "spec": closed(schema["properties"]["spec"])
        }
        jsonschema.Draft7Validator(schema).validate(document)
        for pod in pods(document):
            template = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
            kubernetes_validate.validate(template, KUBERNETES_VERSION, strict=True)
    else:
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)


def pods(document: Manifest) -> list[Manifest]:
    """List the pods that a manifest makes."""
    specification = document.get("spec", {})
    if document["kind"] == "DaskCluster":
        return [specification["scheduler"]["spec"], specification["worker"]["spec"]]
    return [specification["template"]["spec"]] if "template" in specification else []


DOCUMENTS = dict(manifests())
WITH_PODS = {name: document for name, document in DOCUMENTS.items() if pods(document)}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_manifest_is_what_the_schemas_allow(name: str) -> None:
    validate(DOCUMENTS[name])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_misspelt_field_would_be_found(name: str) -> None:
    document = copy.deepcopy(DOCUMENTS[name])
    place = document.get("spec", document)
    place["replica"] = 3
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate(document)
    for pod in pods(document):
        pod["container"] = pod.pop("containers")
    if pods(document):
        del place["replica"]
        with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
            validate(document)


@pytest.mark.parametrize("name", WITH_PODS)
def test_pods_have_no_root_no_rights_and_bounded_resources(name: str) -> None:
    for pod in pods(WITH_PODS[name]):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] == ("serviceAccountName" in pod)
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"] == container["resources"]["requests"]
            assert set(container["resources"]["limits"]) == {"cpu", "memory"}


@pytest.mark.parametrize("name", WITH_PODS)
def test_secrets_are_named_and_never_written(name: str) -> None:
    assert "PRIVATE KEY" not in yaml.safe_dump(WITH_PODS[name])
    for pod in pods(WITH_PODS[name]):
        mounted = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
        assert all(secret == {"secretName": "cntk-tls", "defaultMode": 0o440} for secret in mounted)
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "cntk-s3", "optional": True}}]
        assert not [variable for variable in container["env"] if "AWS" in variable["name"]]


@pytest.mark.parametrize("name", [name for name in WITH_PODS if not name.startswith("desk.yaml")])  # which runs no Dask
def test_pods_have_the_settings_of_the_package(name: str) -> None:
    for pod in pods(WITH_PODS[name]):
        (container,) = pod["containers"]
        given = {variable["name"]: variable.get("value") for variable in container["env"]}
        differing = {key: value for key, value in environment().items() if given.get(key) != value}
        assert not differing, f"SETTINGS in clusters/dask/settings.py changed: write these into env of {name}"


def test_the_manifest_of_the_operator_is_what_the_executor_writes() -> None:
    assert DOCUMENTS["daskcluster.yaml:DaskCluster:cntk"] == cluster_manifest(CLUSTER, Names("cntk", "default"), 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"tls": False},
        {"volume_claim": None},
        {"threads_per_worker": 4},
        {"memory_limit": "800 MB"},
        {"gpus_per_node": 2},
    ],
)
def test_what_the_executor_writes_is_what_the_schemas_allow(changes: dict[str, Any]) -> None:
    validate(cluster_manifest(CLUSTER.model_copy(update=changes), Names("cntk", "default"), 2))


def test_a_pod_of_a_worker_asks_for_one_card_and_no_other_pod_for_any() -> None:
    config = CLUSTER.model_copy(update={"gpus_per_node": 2})
    made = cluster_manifest(config, Names("cntk", "default"), 4)["spec"]
    worker, scheduler = (made[part]["spec"]["containers"][0]["resources"] for part in ("worker", "scheduler"))
    assert worker["limits"]["nvidia.com/gpu"] == "1"
    driver = job_manifest(config, "a", "default", ["m"])["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert not any("nvidia.com/gpu" in part for each in (scheduler, driver) for part in each.values())


def test_the_certificates_are_a_secret() -> None:
    secret = secret_manifest(Names("cntk", "default"), make_pem())
    validate(secret)
    assert set(secret["stringData"]) == {"ca.pem", "cert.pem", "key.pem"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "needs cluster.image"),
        ({"memory_limit": "auto"}, r"needs cluster.memory_limit of a worker in bytes \(\"4GiB\"\), got 'auto'"),
        ({"memory_limit": 0.5}, r"in bytes \(\"4GiB\"\), got 0.5"),
    ],
)
def test_what_a_pod_must_know_is_asked_for(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cluster_manifest(CLUSTER.model_copy(update=changes), Names("cntk", "default"), 4)


def test_a_kubernetes_cluster_needs_a_number_of_pods() -> None:
    config = CLUSTER.model_copy(update={"workers": None})
    with pytest.raises(ConfigError, match=r"needs cluster.workers"), CLUSTERS["kubernetes"].executor(config, print):
        pass


def test_without_an_api_server_the_error_says_what_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    refused = pytest.raises(ConfigError, match=r"the Kubernetes API server refuses: .*deploy/kubernetes/access.yaml")
    with refused, CLUSTERS["kubernetes"].executor(CLUSTER.model_copy(update={"namespace": None}), print):
        pass


def test_the_cluster_table_in_the_comments_of_the_driver_is_valid() -> None:
    lines = (FOLDER / "driver.yaml").read_text().split("[cluster]", 1)[1].split("# kubectl", 1)[0].splitlines()
    table = tomllib.loads("\n".join(line.lstrip("# ") for line in lines))
    parse_config({"network": {"preset": "cntk"}, "cluster": table}, "driver.yaml")


@pytest.mark.parametrize("volume_claim", [None, "cntk-runs"])
def test_the_job_that_is_submitted_is_what_the_schemas_allow(volume_claim: str | None) -> None:
    cluster = load_cluster(FOLDER / "cluster.toml").model_copy(update={"volume_claim": volume_claim})
    job = job_manifest(
        cluster, "cntk-cifar10-0a1b2c", "default", ["cntk_pipeline.cli", "drive", "s3://bucket/run", "--settle"]
    )
    validate(job)
    (pod,) = pods(job)
    assert pod["serviceAccountName"] == "cntk-driver"
    assert pod["containers"][0]["command"][-3:] == ["drive", "s3://bucket/run", "--settle"]
    assert "PRIVATE KEY" not in yaml.safe_dump(job)
    assert "AWS" not in yaml.safe_dump(job), "credentials are in the Secret that envFrom names"


def test_what_a_driver_in_a_pod_makes_is_owned_by_the_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Owner.here() is None
    for name, value in (("CNTK_POD", "cntk-x-1"), ("CNTK_POD_UID", "0-1"), ("CNTK_JOB", "cntk-x")):
        monkeypatch.setenv(name, value)
    owner, names = Owner.here(), Names("cntk", "default")
    for made in (secret_manifest(names, make_pem(), owner), cluster_manifest(CLUSTER, names, 2, owner)):
        validate(made)
        (reference,) = made["metadata"]["ownerReferences"]
        assert (reference["kind"], reference["name"], reference["uid"]) == ("Pod", "cntk-x-1", "0-1")
        assert made["metadata"]["labels"] == {"app.kubernetes.io/instance": "cntk-x"}


def process_of(container: Manifest, moved: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return command and environment of a container as a process here, with some texts replaced."""

    def here(text: str) -> str:
        for old, new in moved.items():
            text = text.replace(old, new)
        return text

    variables = {variable["name"]: here(variable.get("value", "w1")) for variable in container["env"]}
    command = [here(word).replace("$(DASK_WORKER_NAME)", "w1") for word in container["command"]]
    return [sys.executable, *command[1:]], os.environ | variables


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[str, Certificates, Manifest]]:
    """Start the scheduler and a worker of plain.yaml as processes; only paths and ports are others.

    The folder that they begin in holds files that are called like modules: seen to fail without -P in either command.
    """
    lay_hostile(tmp_path)
    made = Certificates.create(tmp_path / "tls")
    scheduler, worker = (
        pods(DOCUMENTS[f"plain.yaml:Deployment:cntk-{name}"])[0]["containers"][0] for name in ("scheduler", "worker")
    )
    port, dashboard = free_port(), free_port()
    address = f"tls://127.0.0.1:{port}"
    moved = {"/tls": str(tmp_path / "tls"), "/tmp/dask": str(tmp_path / "dask"), "8787": str(dashboard)}
    moved |= {f"tls://cntk-scheduler:{PORT}": address, str(PORT): str(port)}
    processes = []
    for container in (scheduler, worker):
        command, environment = process_of(container, moved)
        environment |= {"PYTHONPATH": os.pathsep.join(sys.path)}  # workers import what this file imports
        processes.append(subprocess.Popen(command, env=environment, cwd=tmp_path))
    probe = [word.replace("8787", str(dashboard)) for word in scheduler["readinessProbe"]["exec"]["command"]]
    yield address, made, {"probe": [sys.executable, *probe[1:]]}
    for process in reversed(processes):
        process.terminate()
    for process in processes:
        process.wait(60)
    assert hostile_run(tmp_path) == []


def settings_here() -> tuple[dict[str, Any], dict[str, str | None]]:
    import dask.config

    before_start = "distributed.nanny.pre-spawn-environ."
    names = [key for key in SETTINGS if not key.startswith(before_start)]
    variables = [key.removeprefix(before_start) for key in SETTINGS if key.startswith(before_start)]
    return {name: dask.config.get(name) for name in names}, {name: os.environ.get(name) for name in variables}


def test_the_commands_of_the_pods_make_a_cluster_with_our_settings(
    started: tuple[str, Certificates, Manifest],
) -> None:
    address, certificates, extra = started
    with distributed.Client(address, security=certificates.security(), timeout=60) as client:
        client.wait_for_workers(1, timeout=60)
        settings, variables = client.submit(settings_here, pure=False).result(timeout=60)
        (worker,) = client.scheduler_info()["workers"].values()
    assert settings == {name: value for name, value in SETTINGS.items() if name in settings}
    assert variables == {name: str(SETTINGS[f"distributed.nanny.pre-spawn-environ.{name}"]) for name in variables}
    assert (worker["name"], worker["nthreads"], worker["memory_limit"]) == ("w1", 1, 4 * 2**30)
    wait_until(lambda: subprocess.run(extra["probe"], capture_output=True).returncode == 0, "the readiness probe")


def drivers() -> dict[str, Manifest]:
    """The containers that a person starts or that a submission makes, and that are no part of Dask, by their name."""
    made = {"driver.yaml": DOCUMENTS["driver.yaml:Job:cntk-driver"]}
    cluster = load_cluster(FOLDER / "cluster.toml")
    made["a submission"] = job_manifest(cluster, "cntk-a-0a1b2c", "default", driver_command("/runs/cifar10")[2:])
    return {name: pods(document)[0]["containers"][0] for name, document in made.items()}


@pytest.mark.parametrize("name", ["driver.yaml", "a submission"])
def test_the_commands_of_drivers_leave_files_alone_that_are_called_like_modules(name: str, tmp_path: Path) -> None:
    """They begin, and say what is not there. Seen to fail without -P in either command."""
    moved = {"/workflow": str(tmp_path / "workflow"), "/runs": str(tmp_path / "runs"), "/tmp/numba": str(tmp_path)}
    command, environment = process_of(drivers()[name], moved)
    environment |= {"PYTHONPATH": str(FOLDER.parents[1] / "pipeline")}
    done = subprocess.run(command, env=environment, cwd=lay_hostile(tmp_path), capture_output=True, timeout=120)
    assert (done.returncode, hostile_run(tmp_path)) == (2, []), done.stderr
    assert str(tmp_path).encode() in done.stderr.replace(b"\n", b"")
