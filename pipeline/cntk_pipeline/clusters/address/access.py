"""The access to an existing scheduler: its address, and the certificates."""

import datetime
import stat
import time
from dataclasses import dataclass
from pathlib import Path

import dask.config
from cryptography import x509
from dask.utils import parse_timedelta
from distributed.security import Security
from pydantic import ConfigDict, with_config

from cntk_pipeline.clusters.address.options import AddressOptions
from cntk_pipeline.config import ClusterConfig, read_address
from cntk_pipeline.config.loopback import is_loopback
from cntk_pipeline.errors import ConfigError, StoreError, WorkersLost
from cntk_pipeline.storage import LocalPath
from cntk_pipeline.storage.records import RECORD_BYTES, Record

POLL_SECONDS = 0.1


def require_access(config: ClusterConfig) -> None:
    """Check all of the access to a scheduler that needs neither the scheduler nor the file that it writes.

    Raises
    ------
    ConfigError
        If there is neither an address nor a scheduler file, the address is not encrypted although ``cluster.tls`` is
        true, or certificates are not named, cannot be read, or are not valid today.
    """
    options = AddressOptions.of(config)
    if options.address or not options.scheduler_file:
        address = scheduler_address(config)
        require_encrypted(address, config)
        client_security(address, config)
    elif config.tls:  # whether it asks for certificates, the scheduler has not said yet
        _require_readable(_named_certificates(options))


def scheduler_address(config: ClusterConfig) -> str:
    """Find the address of the scheduler of an "address" cluster; `tls://` where the table names certificates.

    Raises
    ------
    ConfigError
        If there is neither an address nor a scheduler file, or the file is invalid.
    WorkersLost
        If the file does not appear within Dask's time to connect.
    """
    options = AddressOptions.of(config)
    if options.address:
        address = options.address
    elif options.scheduler_file:
        address = _wait_for_address(Path(options.scheduler_file))
    else:
        raise ConfigError('the "address" cluster needs cluster.address ("tls://host:8786") or cluster.scheduler_file')
    try:
        read_address(address)
    except ValueError as error:
        raise ConfigError(f"{options.scheduler_file}: {error}") from None
    if "://" in address:
        return address
    return f"{'tls' if options.tls_ca_file else 'tcp'}://{address}"


def require_encrypted(address: str, config: ClusterConfig) -> tuple[str, ...]:
    """Refuse to reach a scheduler in the clear, unless the table says so or nothing leaves this machine.

    Returns
    -------
    warnings : tuple of str
        Of a plain connection over the loopback.

    Raises
    ------
    ConfigError
        If the address is not encrypted although ``cluster.tls`` is true.
    """
    protocol, _, rest = address.partition("://")
    if protocol == "tls" or not config.tls:
        return ()
    host = rest.rpartition(":")[0]
    if is_loopback(host):
        return (f"the scheduler at {address} is not encrypted: all users of this machine can run code in it",)
    raise ConfigError(
        f"the scheduler at {address} is not encrypted, and everybody who reaches it can run code in it. Start it with "
        'certificates and give address = "tls://..." with tls_ca_file, tls_cert and tls_key; or, in a network where '
        "you trust everybody, set cluster.tls = false"
    )


def client_security(address: str, config: ClusterConfig) -> tuple[Security | None, tuple[str, ...]]:
    """Take the certificates of a client from the ``[cluster]`` table, or else from Dask's own configuration.

    Returns
    -------
    security : Security or None
        None where the address is not encrypted.
    warnings : tuple of str
        Of a key that others can read.

    Raises
    ------
    ConfigError
        If the address asks for certificates that are not named, or cannot be read.
    """
    if not address.startswith("tls://"):
        return None, ()
    paths = _named_certificates(AddressOptions.of(config))
    if not paths and dask.config.get("distributed.comm.tls.ca-file"):
        return Security(require_encryption=True), ()
    absent = [f"cluster.{name}" for name in _CERTIFICATES if name not in paths]
    if absent:
        raise ConfigError(
            f"the scheduler at {address} asks for certificates, but {' and '.join(absent)} "
            f"{'is' if len(absent) == 1 else 'are'} not set: name the PEM files that it was started with"
        )
    _require_readable(paths)
    warnings: tuple[str, ...] = ()
    if paths["tls_key"].stat().st_mode & stat.S_IROTH:
        warnings = (f"everybody on this machine can read the key {paths['tls_key']}: chmod 600 it",)
    security = Security(
        require_encryption=True,
        tls_ca_file=str(paths["tls_ca_file"]),
        tls_client_cert=str(paths["tls_cert"]),
        tls_client_key=str(paths["tls_key"]),
    )
    return security, warnings


_CERTIFICATES = ("tls_ca_file", "tls_cert", "tls_key")
"""Keys that name PEM files."""


def _named_certificates(options: AddressOptions) -> dict[str, Path]:
    named = zip(_CERTIFICATES, (options.tls_ca_file, options.tls_cert, options.tls_key), strict=True)
    return {name: Path(path) for name, path in named if path}


def _require_readable(paths: dict[str, Path]) -> None:
    """Refuse PEM files that cannot be read, and certificates that are not valid today.

    Parameters
    ----------
    paths : mapping of str to Path
        The files, by the keys that name them.

    Raises
    ------
    ConfigError
        If a file is refused.
    """
    for name, path in paths.items():
        try:
            path.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read cluster.{name} = {str(path)!r}: {error.strerror}") from error
        if name != "tls_key":
            _require_valid(f"cluster.{name}", path)


def _require_valid(what: str, path: Path) -> None:
    """Refuse a file without certificates, or with one that is not valid today: a scheduler would just not answer.

    Raises
    ------
    ConfigError
        If the file is refused, with the days of validity.
    """
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{what} = {str(path)!r} holds no certificate in PEM: {error}") from error
    now = datetime.datetime.now(datetime.UTC)
    for certificate in certificates:
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not begins <= now <= ends:
            raise ConfigError(
                f"{what} = {str(path)!r} is good from {begins:%Y-%m-%d} to {ends:%Y-%m-%d}, and today is "
                f"{now:%Y-%m-%d}: make new certificates for scheduler, workers and driver (docs/security.md)"
            )


@with_config(ConfigDict(strict=True))
@dataclass(frozen=True)
class _SchedulerFile:
    address: str


_SCHEDULER: Record[_SchedulerFile] = Record(_SchedulerFile, "start the scheduler again")


def _wait_for_address(path: Path) -> str:
    """Read a scheduler file; wait for it while a starting scheduler has not written it, or not to its end."""
    timeout = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))
    deadline = time.monotonic() + timeout
    while True:
        try:
            content = LocalPath(path.resolve()).read_bytes(RECORD_BYTES)
        except FileNotFoundError:
            problem = "it is not there"
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"cannot read cluster.scheduler_file = {str(path)!r}: {reason}") from error
        else:
            try:
                return _SCHEDULER.parse(content, path).address
            except StoreError:
                problem = "it names no address"
        if time.monotonic() > deadline:
            raise WorkersLost(f"no Dask scheduler has written {path} in {timeout:g} s ({problem}): start one first")
        time.sleep(POLL_SECONDS)
