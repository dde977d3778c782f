"""Signatures of this user, by a key that nobody else can read.

A record of a directory counts as written by this user if it carries such a signature. The key is made at the first
signing, in the user's own configuration: every machine that shares the home directory knows it, and every machine to
which the user copied the key. Signatures have advantages over a list of accepted records: no list grows, drivers that
sign at the same time do not meet, and a run directory that is moved, copied or put into a bucket keeps its signatures.
"""

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

KEY_VARIABLE = "CNTK_KEY"
KEY_BYTES = 32


@dataclass(frozen=True)
class Key:
    """The user's key.

    Attributes
    ----------
    secret : bytes
        Its bytes; empty where there is none that may be used.
    problem : str
        Why there is none; empty where there is one, or none was made yet.
    """

    secret: bytes
    problem: str = ""


def key_path() -> Path | None:
    """Return the path of the key; None where this user has no home."""
    given = os.environ.get(KEY_VARIABLE)
    if given:
        with contextlib.suppress(RuntimeError):  # the home of a user who is not known
            return Path(given).expanduser()
        return None
    try:
        return Path.home() / ".config" / "cntk" / "key"
    except RuntimeError:
        return None


def sign(purpose: str, *parts: str) -> str:
    """Sign a list of texts for one purpose; the key is made where there is none.

    Returns
    -------
    signature : str
        Hexadecimal digits; empty where there is no key and none can be made.
    """
    key = find_key()
    if not key.secret and not key.problem:
        _create()
        key = find_key()
    return _signature(key.secret, purpose, parts) if key.secret else ""


def is_signed(signature: object, purpose: str, *parts: str) -> bool:
    """Tell whether this user has signed these texts for this purpose; any value may be in a signature's place."""
    secret = find_key().secret
    if not secret or not isinstance(signature, str):
        return False
    return hmac.compare_digest(signature.encode("utf-8", "replace"), _signature(secret, purpose, parts).encode())


def find_key() -> Key:
    """Read the key. One that others can read or have written proves nothing, and is not used."""
    path = key_path()
    if path is None:
        return Key(b"", f"this user has no home for a key; ${KEY_VARIABLE} can name a file")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a fifo in its place must not hold this process
    except FileNotFoundError:
        return Key(b"")
    except OSError as error:
        return Key(b"", f"the key {path} cannot be read: {error.strerror}")
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return Key(b"", f"the key {path} is no file of this user's: delete it, and a new one is made")
        if stat.S_IMODE(status.st_mode) & 0o077:
            return Key(b"", f"others can read the key {path}: delete it, and a new one is made")
        content = os.read(descriptor, KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) != KEY_BYTES:
        return Key(b"", f"the key {path} does not have {KEY_BYTES} bytes: delete it, and a new one is made")
    return Key(content)


def _create() -> None:
    """Make a key; of several processes at once, one makes it. Where none can be made, there is none."""
    path = key_path()
    if path is None:
        return
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
            try:
                os.link(aside, path)
            except FileExistsError:
                pass  # another process was first
            except OSError:  # no hard links here: if two processes make a key, signatures by the first are lost
                aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def _signature(secret: bytes, purpose: str, parts: tuple[str, ...]) -> str:
    # As JSON, no two lists of texts are written alike.
    return hmac.new(secret, json.dumps([purpose, *parts]).encode(), hashlib.sha256).hexdigest()
