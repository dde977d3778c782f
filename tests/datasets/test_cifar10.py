import tarfile

import pooch
import pytest

from cntk_pipeline.datasets import load
from cntk_pipeline.datasets.archives import MD5, URL
from cntk_pipeline.errors import DataError, DataNotFound


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """Keep the tests out of the user's folders and off the network; return the cache folder."""

    def refuse(url, *_, **__):
        raise ConnectionError(f"no route to {url}")

    cache = tmp_path / "cache"
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("CNTK_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda _: cache)
    monkeypatch.setattr(pooch, "retrieve", refuse)
    return cache


@pytest.fixture
def archive(tmp_path, write_binary):
    def pack(path):
        folder = write_binary(tmp_path / "packed" / "cifar-10-batches-bin")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w:gz") as tar:
            tar.add(folder, folder.name)
        return path

    return pack


@pytest.mark.parametrize("below", [".", "plain_text", "data", "cifar-10-batches-bin", "cifar-10-batches-py"])
@pytest.mark.parametrize("form", ["write_binary", "write_python", "write_parquet"])
def test_files_are_found_in_the_usual_subfolders(form, below, request, tmp_path):
    request.getfixturevalue(form)(tmp_path / "here" / below)
    assert len(load("cifar10", str(tmp_path / "here")).train) == 15


@pytest.mark.parametrize("place", ["cifar10", "."])
def test_the_environment_variable_is_looked_at(place, tmp_path, write_parquet, monkeypatch):
    write_parquet(tmp_path / "shared" / place)
    monkeypatch.setenv("CNTK_DATA", str(tmp_path / "shared"))
    assert len(load("cifar10").test) == 3


def test_the_working_folder_is_looked_at(tmp_path, write_binary):
    write_binary(tmp_path / "work/data/cifar10")
    assert len(load("cifar10").test) == 3


def test_an_archive_is_unpacked_into_the_cache_once(tmp_path, archive, nowhere):
    path = archive(tmp_path / "any.tar.gz")
    assert len(load("cifar10", str(path)).test) == 3
    (unpacked,) = nowhere.iterdir()
    stamp = unpacked.stat().st_mtime_ns
    assert len(load("cifar10", str(path)).test) == 3
    assert [p.stat().st_mtime_ns for p in nowhere.iterdir()] == [stamp]


@pytest.mark.parametrize("name", ["cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"])
def test_an_archive_inside_of_the_folder_is_found(tmp_path, archive, name):
    archive(tmp_path / "here" / name)
    assert len(load("cifar10", str(tmp_path / "here")).test) == 3


def test_the_download_is_checked_and_unpacked(archive, nowhere, monkeypatch):
    calls = []

    def retrieve(url, known_hash, fname, path, downloader):
        calls.append((url, known_hash, downloader.kwargs["timeout"][0]))
        return str(archive(path / fname))

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert len(load("cifar10").test) == 3
    assert calls == [(URL, "md5:c32a1d4ab5d03f1284b67883e8d87530", 5)]
    assert len(load("cifar10").test) == 3
    assert len(calls) == 1


def test_a_download_of_something_else_is_refused(monkeypatch):
    def retrieve(*_, **__):
        raise ValueError("MD5 hash of downloaded file does not match")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(DataError, match=f"{URL}: expected the published archive, md5:{MD5['cifar-10-binary.tar.gz']}"):
        load("cifar10")


def test_without_files_and_network_every_place_and_the_remedy_are_named(tmp_path, monkeypatch, nowhere):
    (tmp_path / "shared").mkdir()
    monkeypatch.setenv("CNTK_DATA", str(tmp_path / "shared"))
    with pytest.raises(DataNotFound) as caught:
        load("cifar10")
    message = str(caught.value)
    for part in (
        "Expected: data_batch_1.bin to data_batch_5.bin and test_batch.bin",
        f"{tmp_path / 'shared' / 'cifar10'} (does not exist)",
        f"{tmp_path / 'shared'} (holds none of them)",
        f"{tmp_path / 'work' / 'data' / 'cifar10'} (does not exist)",
        f"{nowhere} (does not exist)",
        f"download {URL} and set data.path",
        "CNTK_DATA",
        f"The download failed: no route to {URL}",
    ):
        assert part in message


def test_a_path_without_the_files_is_not_searched_elsewhere(tmp_path, write_binary):
    write_binary(tmp_path / "work/data/cifar10")
    with pytest.raises(DataNotFound, match=r"none \(does not exist\)\. To get it: .*CNTK_DATA$"):
        load("cifar10", str(tmp_path / "none"))


def test_an_incomplete_release_is_named(tmp_path, write_binary):
    folder = write_binary(tmp_path / "here")
    (folder / "data_batch_4.bin").unlink()
    with pytest.raises(DataNotFound, match=r"here \(incomplete, lacks data_batch_4\.bin\)"):
        load("cifar10", str(folder))


def test_a_complete_release_beside_an_incomplete_one_is_taken(tmp_path, write_binary, write_python):
    folder = write_binary(tmp_path / "here")
    write_python(folder)
    (folder / "data_batch_4.bin").unlink()
    assert len(load("cifar10", str(folder)).train) == 15


def test_an_archive_of_something_else_is_refused_and_leaves_nothing_in_the_cache(tmp_path, nowhere):
    (tmp_path / "note").write_text("x")
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "note", "note")
    with pytest.raises(
        DataError, match=r"other\.tar\.gz: expected an archive with data_batch_1.*, got other files; fetch"
    ):
        load("cifar10", str(tmp_path / "other.tar.gz"))
    assert list(nowhere.iterdir()) == []


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def deny(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("cntk_pipeline.datasets.cifar10._locate", deny)
    with pytest.raises(
        DataError, match=r"/locked: expected readable folders, got PermissionError .*check its permissions"
    ):
        load("cifar10", "/locked")
