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

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from distributed.security import Security

from cntk_pipeline.errors import ConfigError

LIFETIME = datetime.timedelta(days=365)
"""Lifetime of certificates that people make and keep. Certificates that a cluster makes for itself end with it and do
not depend on clocks: a worker that comes back after a clock was set must be let in."""

FIRST_DAY = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
"""First day of validity: the clock of a host may be late by any time."""

NEVER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
"""Last day of a certificate that does not expire (RFC 5280, section 4.1.2.5)."""

AUTHORITY, CERTIFICATE, KEY = "ca.pem", "cert.pem", "key.pem"


@dataclass(frozen=True)
class Certificates:
    """Paths of the PEM files that let a process into a cluster; all hosts must see them under the same path.

    Attributes
    ----------
    authority : certificate of the authority that signed ``certificate``.
    certificate : shown by each process.
    key : its private key.
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

    def security(self) -> Security:
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

    def environment(self) -> dict[str, str]:
        """Return environment variables with the effect of `arguments` for every Dask process, clients included."""
        names = {f"{role}__{part}" for role in ("CLIENT", "SCHEDULER", "WORKER") for part in ("CERT", "KEY")}
        parts = {name: str(self.certificate if name.endswith("CERT") else self.key) for name in sorted(names)}
        tls = {"CA_FILE": str(self.authority)} | parts
        return {f"DASK_DISTRIBUTED__COMM__TLS__{name}": path for name, path in tls.items()} | {
            "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True"
        }


def make_pem(lifetime: datetime.timedelta | None = None) -> tuple[str, str, str]:
    """Make an authority, a certificate signed by it, and the certificate's key, all as PEM text.

    They do not expire unless a ``lifetime`` is given: their cluster lasts as long as its driver.
    """
    last = NEVER if lifetime is None else datetime.datetime.now(tz=datetime.UTC) + lifetime
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name, name = _name("cntk cluster authority"), _name("cntk cluster")
    authority = (
        _begin(authority_name, authority_name, authority_key, last)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        _begin(name, authority_name, key, last)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return authority.public_bytes(pem).decode(), certificate.public_bytes(pem).decode(), private.decode()


def security_of(authority: str, certificate: str, key: str) -> Security:
    """Make a ``security`` with certificates for all roles of Dask, and only TLS; each is a path or PEM text."""
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


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _begin(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, last: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(FIRST_DAY)
        .not_valid_after(last)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
