"""Certificates of one cluster: an authority of its own, and one certificate that all its processes show.

Dask asks both ends of a connection for a certificate signed by the cluster's authority, and does not compare host
names. So exactly the processes with the key file belong to the cluster. The authority's own key is never written: no
further certificate can ever be signed.
"""

import contextlib
import datetime
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cntk_pipeline.errors import ConfigError

if TYPE_CHECKING:  # most callers need the paths only
    from distributed.security import Security

LIFETIME = datetime.timedelta(days=365)
"""Lifetime of certificates that people make and keep. Certificates that a cluster makes for itself end with it and do
not depend on clocks: a worker that comes back after a clock was set must be let in."""

AUTHORITY, CERTIFICATE, KEY = "ca.pem", "cert.pem", "key.pem"


@dataclass(frozen=True)
class Certificates:
    """Paths of the PEM files that let a process into a cluster; all hosts must see them under the same path.

    Attributes
    ----------
    authority : Path
        Certificate of the authority that signed ``certificate``.
    certificate : Path
        Shown by each process.
    key : Path
        Its private key.
    """

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def create(cls, folder: str | Path, lifetime: datetime.timedelta | None = LIFETIME) -> "Certificates":
        """Make new certificates in a private folder (mode 0700, files 0600); older ones there are replaced.

        They are valid for ``lifetime``; with None they do not expire, for use by one cluster.

        Raises
        ------
        ConfigError
            If the folder cannot be made private, or not be written.
        """
        from cntk_pipeline.clusters.dask.signing import make_pem

        folder = Path(folder).absolute()
        made = cls.within(folder)
        contents = make_pem(lifetime)
        try:
            _make_private(folder)
            for path, content in zip((made.authority, made.certificate, made.key), contents, strict=True):
                write_private(path, content.encode())
        except OSError as error:
            raise ConfigError(
                f"cannot write the cluster's certificates into {folder}: {error.strerror}. It must be a folder of your "
                "own, on a file system that keeps modes"
            ) from error
        return made

    @classmethod
    def within(cls, folder: str | Path) -> "Certificates":
        """Return the paths of files that `create` has made, or that are mounted there."""
        folder = Path(folder)
        return cls(folder / AUTHORITY, folder / CERTIFICATE, folder / KEY)

    def security(self) -> "Security":
        """Return the ``security`` of Dask's clients and clusters; connections without TLS are refused."""
        return security_of(str(self.authority), str(self.certificate), str(self.key))

    def arguments(self) -> list[str]:
        """List the options of ``dask scheduler`` and ``dask worker``; both take the same, and they hold paths only."""
        return [
            *("--protocol", "tls"),
            *("--tls-ca-file", str(self.authority)),
            *("--tls-cert", str(self.certificate)),
            *("--tls-key", str(self.key)),
        ]


def security_of(authority: str, certificate: str, key: str) -> "Security":
    """Make a ``security`` with certificates for all roles of Dask, and only TLS; each is a path or PEM text."""
    from distributed.security import Security

    return Security(
        require_encryption=True,
        tls_ca_file=authority,
        tls_client_cert=certificate,
        tls_client_key=key,
        tls_scheduler_cert=certificate,
        tls_scheduler_key=key,
        tls_worker_cert=certificate,
        tls_worker_key=key,
    )


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, from its first byte on; it replaces an older one at once."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    aside.replace(path)


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid():
        raise ConfigError(f"{folder} must be a folder of your own to hold keys: it is a link, or of somebody else")
    folder.chmod(0o700)
