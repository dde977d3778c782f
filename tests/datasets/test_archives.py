import io
import os
import tarfile

import pytest

from cntk_pipeline.datasets.archives import extract
from cntk_pipeline.errors import DataError

ANY = ["*"]


@pytest.fixture
def pack(tmp_path):
    def write(*names, file_name="a.tar.gz"):
        with tarfile.open(tmp_path / file_name, "w:gz") as tar:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = 4000
                tar.addfile(member, io.BytesIO(os.urandom(4000)))
        return tmp_path / file_name

    return write


def test_members_are_unpacked_into_a_folder_of_their_own(pack, tmp_path):
    first, second = (
        extract(pack("x/data", file_name=name), tmp_path / "cache", ANY) for name in ("a.tar.gz", "b.tar.gz")
    )
    assert first != second
    assert (first / "x/data").stat().st_size == 4000


@pytest.mark.parametrize("name", ["../evil", "/tmp/../../evil", "x/../../evil"])
def test_a_member_outside_of_the_folder_is_refused(pack, tmp_path, name):
    with pytest.raises(DataError, match=r"a\.tar\.gz: expected a whole CIFAR-10 archive .*OutsideDestination"):
        extract(pack("fine", name), tmp_path / "cache", ANY)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_archive_leaves_nothing_behind(pack, tmp_path, kept):
    path = pack("data", file_name="cifar-10-binary.tar.gz")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz: .*md5 c32a1d4ab5d03f1284b67883e8d87530"):
        extract(path, tmp_path / "cache", ANY)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_process_that_was_first_is_respected(pack, tmp_path, monkeypatch):
    path = pack("data")
    target = extract(path, tmp_path / "cache", ANY)
    (target / "theirs").write_text("x")
    seen = iter([False, True])
    monkeypatch.setattr("pathlib.Path.is_dir", lambda self: next(seen) if self == target else os.path.isdir(self))
    assert extract(path, tmp_path / "cache", ANY) == target
    assert (target / "theirs").exists()
    assert list((tmp_path / "cache").iterdir()) == [target]


def test_a_cache_that_cannot_be_written_is_named(pack, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match=r"and room for it in .*cache, got FileExistsError"):
        extract(pack("data"), tmp_path / "cache", ANY)


def test_files_of_other_names_stay_in_the_archive(pack, tmp_path):
    unpacked = extract(pack("x/test_batch.bin", "x/film", "../test_batch/other"), tmp_path / "cache", ["test_*.bin"])
    assert [path.name for path in unpacked.rglob("*") if path.is_file()] == ["test_batch.bin"]


def test_a_file_far_too_large_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("cntk_pipeline.datasets.archives._LARGEST_BYTES", 3999)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("test_batch")
        member.size = 4000
        tar.addfile(member, io.BytesIO(bytes(4000)))
    with pytest.raises(DataError, match=r"a\.tar\.gz: expected files of at most 0 MB, got test_batch of 0 MB; fetch"):
        extract(tmp_path / "a.tar.gz", tmp_path / "cache", ANY)
    assert list((tmp_path / "cache").iterdir()) == []
