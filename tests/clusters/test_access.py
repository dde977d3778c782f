import datetime
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dask.config
import distributed
import psutil
import pytest
from distributed.security import Security
from support.problems import Recorder
from support.processes import nothing

from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.clusters.address.access import client_security, require_encrypted, scheduler_address
from cntk_pipeline.clusters.dask.certificates import Certificates
from cntk_pipeline.clusters.dask.dashboard import dashboard_warnings
from cntk_pipeline.clusters.dask.executor import DaskExecutor
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.config.loopback import is_loopback
from cntk_pipeline.errors import ConfigError, WorkersLost
from cntk_pipeline.rundir.directory import RunDirectory

pytestmark = pytest.mark.slow

AT_ONCE = {"distributed.comm.timeouts.connect": "1s"}


def table(certificates: Certificates) -> dict[str, str]:
    return {
        "tls_ca_file": str(certificates.authority),
        "tls_cert": str(certificates.certificate),
        "tls_key": str(certificates.key),
    }


def listening(process: psutil.Process) -> set[str]:
    return {socket.laddr.ip for socket in process.net_connections("tcp") if socket.status == psutil.CONN_LISTEN}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.create(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def scheduler(certificates: Certificates) -> Iterator[str]:
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        host="127.0.0.1",
        protocol="tls://",
        security=certificates.security(),
        dashboard_address=None,
        silence_logs=50,
    ) as cluster:
        yield cluster.scheduler_address


def address_of_scheduler(executor: DaskExecutor) -> str:
    """Where a local scheduler listens for others than its own process."""
    address: str = executor._client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.address)
    return address


def test_local_workers_let_in_their_driver_only() -> None:
    with CLUSTERS["local"].executor(ClusterConfig(workers=1), nothing) as executor:
        (address,) = executor._client.scheduler_info()["workers"]
        plain, foreign = Security(), Security.temporary()
        for where in (address_of_scheduler(executor), address):
            assert where.startswith("tls://127.0.0.1:")
            for security, protocol in ((plain, "tcp"), (foreign, "tls")):
                with pytest.raises(OSError), dask.config.set(AT_ONCE):  # noqa: PT011
                    distributed.Client(where.replace("tls", protocol), security=security, timeout=1)


def test_nothing_of_a_local_cluster_listens_beyond_this_machine() -> None:
    with CLUSTERS["local"].executor(ClusterConfig(workers=2), nothing) as executor:
        this = psutil.Process()
        workers = [child for child in this.children(recursive=True) if listening(child)]
        assert len(workers) == 2
        assert set.union(*map(listening, [this, *workers])) == {"127.0.0.1"}
        assert executor.warnings == ()


def test_a_local_cluster_without_encryption_is_for_whoever_asks_for_it() -> None:
    with CLUSTERS["local"].executor(ClusterConfig(workers=1, tls=False), nothing) as executor:
        assert address_of_scheduler(executor).startswith("tcp://127.0.0.1:")


def test_a_wide_dashboard_is_warned_of() -> None:
    with CLUSTERS["local"].executor(ClusterConfig(workers=1, dashboard="0.0.0.0:0"), nothing) as executor:
        (warning,) = executor.warnings
    assert "anybody who reaches 0.0.0.0 sees the dashboard" in warning


@pytest.mark.parametrize(
    ("dashboard", "host"), [(":8787", "any address of this machine"), ("0.0.0.0:0", "0.0.0.0"), ("node7:80", "node7")]
)
def test_a_dashboard_that_others_reach_is_told_apart(dashboard: str, host: str) -> None:
    (warning,) = dashboard_warnings(dashboard)
    assert f"anybody who reaches {host} sees" in warning


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost", "[::1]", "::1"])
def test_the_loopback_is_known_by_all_its_names(host: str) -> None:
    assert is_loopback(host)
    assert dashboard_warnings(f"{host}:0") == ()


@pytest.mark.parametrize("host", ["", "0.0.0.0", "10.0.0.1", "localhost.example.org", "128.0.0.1", "[::]"])
def test_nothing_else_is_the_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_a_run_reaches_a_scheduler_with_its_certificates(scheduler: str, certificates: Certificates) -> None:
    config = ClusterConfig(kind="address", address=scheduler, **table(certificates))
    with CLUSTERS["address"].executor(config, nothing) as executor:
        assert executor.warnings == ()
        assert executor.slots == 1


def test_certificates_may_come_from_the_configuration_of_dask(scheduler: str, certificates: Certificates) -> None:
    named = {
        "distributed.comm.tls.ca-file": str(certificates.authority),
        "distributed.comm.tls.client.cert": str(certificates.certificate),
        "distributed.comm.tls.client.key": str(certificates.key),
    }
    with dask.config.set(named), CLUSTERS["address"].executor(ClusterConfig(address=scheduler), nothing) as executor:
        assert executor.slots == 1


def test_a_client_of_another_authority_is_refused(scheduler: str, tmp_path: Path) -> None:
    config = ClusterConfig(address=scheduler, **table(Certificates.create(tmp_path / "foreign")))
    refused = pytest.raises(WorkersLost, match=r"tls://127\.0\.0\.1:\d+ shows a certificate that is not good")
    with refused, dask.config.set(AT_ONCE), CLUSTERS["address"].executor(config, nothing):
        pass


@pytest.mark.parametrize("name", ["tls_ca_file", "tls_cert"])
def test_certificates_that_are_over_are_named_with_their_days(
    certificates: Certificates, tmp_path: Path, name: str
) -> None:
    over = table(Certificates.create(tmp_path / "over", datetime.timedelta(days=-3)))
    config = ClusterConfig(**table(certificates) | {name: over[name]})
    with pytest.raises(
        ConfigError, match=rf"cluster\.{name} = '.*' is good from 1970-01-01 to \d+-\d\d-\d\d, and today"
    ):
        client_security("tls://host:8786", config)


def test_a_file_that_holds_no_certificate_is_named(certificates: Certificates) -> None:
    config = ClusterConfig(**table(certificates) | {"tls_cert": str(certificates.key)})
    with pytest.raises(ConfigError, match=r"cluster\.tls_cert = '.*key.pem' holds no certificate in PEM"):
        client_security("tls://host:8786", config)


def test_an_address_without_a_protocol_is_encrypted_where_certificates_are_named(certificates: Certificates) -> None:
    assert scheduler_address(ClusterConfig(address="host:8786", **table(certificates))) == "tls://host:8786"
    assert scheduler_address(ClusterConfig(address="host:8786")) == "tcp://host:8786"


@pytest.mark.parametrize("address", ["tcp://10.0.0.1:8786", "ucx://10.0.0.1:8786", "10.0.0.1:8786"])
def test_a_scheduler_in_the_clear_is_refused(address: str) -> None:
    refused = pytest.raises(ConfigError, match=r"is not encrypted, .* or, in a network .* set cluster.tls = false")
    with refused, CLUSTERS["address"].executor(ClusterConfig(address=address), nothing):
        pass


def test_whoever_trusts_the_network_may_say_so() -> None:
    assert require_encrypted("tcp://10.0.0.1:8786", ClusterConfig(tls=False)) == ()


def test_a_plain_scheduler_on_the_loopback_is_warned_of() -> None:
    (warning,) = require_encrypted("tcp://127.0.0.1:8786", ClusterConfig())
    assert "all users of this machine can run code in it" in warning


def test_missing_certificates_are_named(certificates: Certificates) -> None:
    with pytest.raises(ConfigError, match=r"but cluster.tls_cert and cluster.tls_key are not set"):
        client_security("tls://host:8786", ClusterConfig(tls_ca_file=str(certificates.authority)))


def test_an_unreadable_certificate_is_named(certificates: Certificates) -> None:
    config = ClusterConfig(**table(certificates) | {"tls_key": "/nowhere/key.pem"})
    with pytest.raises(ConfigError, match=r"cannot read cluster.tls_key = '/nowhere/key.pem': No such file"):
        client_security("tls://host:8786", config)


def test_a_key_that_everybody_can_read_is_warned_of(tmp_path: Path) -> None:
    made = Certificates.create(tmp_path / "tls")
    assert client_security("tls://host:8786", ClusterConfig(**table(made)))[1] == ()
    made.key.chmod(0o644)
    (warning,) = client_security("tls://host:8786", ClusterConfig(**table(made)))[1]
    assert f"everybody on this machine can read the key {made.key}" in warning


def test_a_scheduler_file_is_held_to_the_same_rule(tmp_path: Path) -> None:
    path = tmp_path / "scheduler.json"
    path.write_text(json.dumps({"type": "Scheduler", "address": "tcp://10.0.0.1:8786"}))
    refused = pytest.raises(ConfigError, match=r"the scheduler at tcp://10.0.0.1:8786 is not encrypted")
    with refused, CLUSTERS["address"].executor(ClusterConfig(scheduler_file=str(path)), nothing):
        pass


def test_a_scheduler_file_may_come_late_and_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "scheduler.json"
    began = threading.Event()

    def write() -> None:
        began.wait(10)
        path.write_text('{"address": "tls://ho')
        path.write_text('{"address": "tls://host:1"}')

    writer = threading.Thread(target=write)
    writer.start()
    began.set()
    assert scheduler_address(ClusterConfig(scheduler_file=str(path))) == "tls://host:1"
    writer.join()


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "it is not there"), ("{", "it names no address"), ('{"id": 1}', "it names no address")],
)
def test_a_scheduler_file_that_does_not_come_is_not_waited_for_for_ever(
    content: str | None, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "scheduler.json"
    if content is not None:
        path.write_text(content)
    began = time.monotonic()
    refused = pytest.raises(WorkersLost, match=rf"no Dask scheduler has written .* in 1 s \({problem}\)")
    with refused, dask.config.set(AT_ONCE):
        scheduler_address(ClusterConfig(scheduler_file=str(path)))
    assert time.monotonic() - began < 10


def test_a_scheduler_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read cluster.scheduler_file = .*is a folder where a file belongs"):
        scheduler_address(ClusterConfig(scheduler_file=str(tmp_path)))


def test_a_run_shows_its_warnings_and_writes_no_key(run_small: Callable[..., RunDirectory]) -> None:
    view = Recorder()
    run = run_small(view, cluster={"kind": "local", "workers": 1, "dashboard": "0.0.0.0:0"})
    assert any(line.startswith("warning: cluster.dashboard =") for line in view.lines)
    written = [path.read_bytes() for path in Path(run.path).rglob("*") if path.is_file()]
    assert len(written) > 5
    assert not [content for content in written if b"PRIVATE KEY" in content or b"BEGIN CERTIFICATE" in content]
    assert "BEGIN" not in "".join(view.lines)
