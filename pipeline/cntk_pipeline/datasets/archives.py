"""The published CIFAR-10 archives: to fetch one, and to unpack it so that no half-written file is ever read."""

import hashlib
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from cntk_pipeline.datasets.reading import open_file, reading
from cntk_pipeline.errors import ConfigError, DataError

BINARY_ARCHIVE = "cifar-10-binary.tar.gz"
PYTHON_ARCHIVE = "cifar-10-python.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{BINARY_ARCHIVE}"
# Published beside the archives, https://www.cs.toronto.edu/~kriz/cifar.html.
MD5 = {BINARY_ARCHIVE: "c32a1d4ab5d03f1284b67883e8d87530", PYTHON_ARCHIVE: "c58f30108f718f92721af3b95e74349a"}
# Seconds to connect, and between two packets: a compute node without a way out should say so at once.
_TIMEOUT_SECONDS = (5, 60)
# The files of the published forms have 31 to 120 MB each.
_LARGEST_BYTES = 512 * 10**6


def download(cache: Path) -> Path:
    """Fetch the binary release into `cache`, unless it is there, and compare its checksum.

    Returns
    -------
    Path
        The archive, 170 MB.

    Raises
    ------
    OSError
        If the address cannot be reached, or the cache not be written; the caller knows the other places it searched.
    DataError
        If the downloaded file is not the published one.
    """
    import pooch  # slow to import, and needed for one source only

    downloader = pooch.HTTPDownloader(timeout=_TIMEOUT_SECONDS)
    known_hash = f"md5:{MD5[BINARY_ARCHIVE]}"
    try:
        return Path(pooch.retrieve(URL, known_hash, fname=BINARY_ARCHIVE, path=cache, downloader=downloader))
    except ValueError as error:
        raise DataError(
            f"{URL}: expected the published archive, {known_hash}, got another file ({error}); try again later, "
            "or fetch it by hand and set data.path"
        ) from error


def extract(archive: Path, cache: Path, patterns: Sequence[str]) -> Path:
    """Unpack files of a tar archive into a folder of `cache` named after its checksum, unless that exists.

    Parameters
    ----------
    archive : Path
        A ``.tar.gz`` file; members that would land outside of the folder are refused.
    cache : Path
        The folder to unpack into; created if absent.
    patterns : sequence of str
        Names of the files that are unpacked; others stay in the archive.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    DataError
        The file is not a whole tar archive, holds an unsafe member, or the cache cannot be written.
    """
    if not hasattr(tarfile, "data_filter"):
        raise ConfigError(f"safe unpacking needs Python 3.11.4 or newer: unpack {archive} yourself, give its folder")
    published = f", md5 {MD5[archive.name]}" if archive.name in MD5 else ""
    with reading(archive, "a readable file"), open_file(archive) as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    target = cache / f"cifar-10-{digest}"
    if target.is_dir():
        return target
    expected = f"a whole CIFAR-10 archive (.tar.gz{published}), and room for it in {cache}"
    with reading(archive, expected, tarfile.TarError, EOFError, zlib.error):
        cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="unpacking-", dir=cache))
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(scratch, members=_wanted(tar, patterns, archive), filter="data")
            _publish(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def _wanted(tar: tarfile.TarFile, patterns: Sequence[str], archive: Path) -> Iterator[tarfile.TarInfo]:
    """Pick the files whose names match a pattern, while the archive is read; refuse files that are far too large."""
    for member in tar:
        if member.isfile() and any(fnmatch(PurePosixPath(member.name).name, pattern) for pattern in patterns):
            if member.size > _LARGEST_BYTES:
                raise DataError(
                    f"{archive}: expected files of at most {_LARGEST_BYTES / 1e6:,.0f} MB, got {member.name} of "
                    f"{member.size / 1e6:,.0f} MB; fetch the published archive"
                )
            yield member


def _publish(scratch: Path, target: Path) -> None:
    """Give a finished folder its name, unless another process was first."""
    try:
        os.rename(scratch, target)
    except OSError:
        if not target.is_dir():
            raise
