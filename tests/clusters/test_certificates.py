import datetime
import os
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import dask.config
import distributed
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from distributed.security import Security

from cntk_pipeline.clusters.dask.certificates import Certificates, write_private
from cntk_pipeline.clusters.dask.signing import make_pem
from cntk_pipeline.errors import ConfigError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates.create(tmp_path / "tls")


def test_certificates_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = Certificates.create(tmp_path / "tls")
    finally:
        os.umask(before)
    assert mode(tmp_path / "tls") == 0o700
    assert {mode(path) for path in (made.authority, made.certificate, made.key)} == {0o600}


def test_an_open_folder_is_closed_before_keys_are_written(tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir(mode=0o755)
    Certificates.create(tmp_path / "tls")
    assert mode(tmp_path / "tls") == 0o700


def test_keys_are_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tls").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"must be a folder of your own to hold keys"):
        Certificates.create(tmp_path / "tls")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write the cluster's certificates into .*/file/tls"):
        Certificates.create(tmp_path / "file" / "tls")


def test_a_private_file_replaces_one_that_others_could_read(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_certificates_of_a_cluster_outlast_every_clock_and_those_that_people_keep_a_year(tmp_path: Path) -> None:
    """A worker that comes back after a clock was set, forward or back, is let in."""
    kept = Certificates.create(tmp_path / "tls")
    for pem, last in [
        (make_pem()[0], datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)),
        (make_pem()[1], datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)),
        (kept.certificate.read_text(), datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=365)),
    ]:
        made = x509.load_pem_x509_certificate(pem.encode())
        assert made.not_valid_before_utc == datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        assert abs(made.not_valid_after_utc - last) < datetime.timedelta(minutes=5)


def test_each_cluster_has_an_authority_of_its_own_whose_key_is_nowhere(tmp_path: Path) -> None:
    first, second = Certificates.create(tmp_path / "1"), Certificates.create(tmp_path / "2")
    authorities = [x509.load_pem_x509_certificate(made.authority.read_bytes()) for made in (first, second)]
    assert authorities[0].public_key() != authorities[1].public_key()
    leaf = x509.load_pem_x509_certificate(first.certificate.read_bytes())
    leaf.verify_directly_issued_by(authorities[0])
    with pytest.raises(InvalidSignature):
        leaf.verify_directly_issued_by(authorities[1])
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == ["ca.pem", "cert.pem", "key.pem"]
    key = first.key.read_bytes()
    assert key.count(b"BEGIN PRIVATE KEY") == 1
    context = ssl.create_default_context(cafile=str(first.authority))
    context.load_cert_chain(first.certificate, first.key)  # the key is the certificate's, not the authority's


def test_certificates_pass_the_strict_checks_of_openssl(certificates: Certificates) -> None:
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile"]
    verified = subprocess.run([*command, certificates.authority, certificates.certificate], capture_output=True)
    assert verified.returncode == 0, verified.stderr


def test_certificates_outlive_a_long_run(certificates: Certificates) -> None:
    leaf = x509.load_pem_x509_certificate(certificates.certificate.read_bytes())
    now = datetime.datetime.now(tz=datetime.UTC)
    assert leaf.not_valid_before_utc < now - datetime.timedelta(hours=12)
    assert leaf.not_valid_after_utc > now + datetime.timedelta(days=300)


@pytest.mark.slow
def test_a_scheduler_and_a_worker_started_by_hand_let_in_the_owner_of_the_key_only(tmp_path: Path) -> None:
    made, foreign = Certificates.create(tmp_path / "ours"), Certificates.create(tmp_path / "foreign")
    scheduler_file = tmp_path / "scheduler.json"
    dask_scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", *made.arguments()]
    places = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
    scheduler = subprocess.Popen([*dask_scheduler, *places, "--scheduler-file", scheduler_file])
    dask_worker = [sys.executable, "-m", "distributed.cli.dask_worker", *made.arguments()]
    worker = subprocess.Popen(
        [*dask_worker, "--scheduler-file", scheduler_file, "--nthreads", "1", "--host", "127.0.0.1"]
    )
    try:
        with distributed.Client(scheduler_file=str(scheduler_file), security=made.security(), timeout=60) as client:
            address = client.scheduler.address
            assert address.startswith("tls://127.0.0.1:")
            client.wait_for_workers(1, timeout=60)
            assert client.submit(sum, [1, 2, 3]).result(timeout=30) == 6
            assert all(name.startswith("tls://127.0.0.1:") for name in client.nthreads())
        for where, security in ((address.replace("tls", "tcp"), Security()), (address, foreign.security())):
            with pytest.raises(OSError), dask.config.set({"distributed.comm.timeouts.connect": "2s"}):  # noqa: PT011
                distributed.Client(where, security=security, timeout=2)
    finally:
        for process in (worker, scheduler):
            process.terminate()
        for process in (worker, scheduler):
            process.wait(30)
