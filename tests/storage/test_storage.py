"""What the store asks of a place, asked of every kind of place: a directory, and a bucket where a server is at hand."""

import errno
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from obstore.store import MemoryStore
from support.processes import wait_until

from cntk_pipeline.errors import ConfigError, StoreError, StoreUnavailable
from cntk_pipeline.storage import (
    LocalPath,
    ObjectPath,
    StorePath,
    explanations,
    lacking,
    local,
    objects,
    open_path,
    retries,
)


@pytest.fixture(params=["local", "bucket"])
def place(request: pytest.FixtureRequest) -> StorePath:
    if request.param == "local":
        path: StorePath = request.getfixturevalue("tmp_path") / "place"
        return path
    bucket = request.getfixturevalue("bucket")
    return open_path(f"s3://{bucket}/{uuid.uuid4().hex}")


@pytest.mark.slow
def test_a_file_is_there_with_all_its_parts(place: StorePath) -> None:
    path = place / "a/b.bin"
    assert (path.exists(), path.is_file(), path.size(), path.version()) == (False, False, None, None)
    path.write_whole(b"abc", memoryview(b"de"))
    assert (path.read_bytes(), path.size(), path.exists(), path.is_file()) == (b"abcde", 5, True, True)
    assert (place / "a").exists()
    assert not (place / "a").is_file()
    assert (path.read_from(2), path.read_from(1, 2), path.read_from(9)) == (b"cde", b"bc", b"")
    assert (path.read_from(3, 2), path.read_from(0, 5)) == (b"de", b"abcde")


def test_a_file_is_mapped_once_a_version(place: StorePath) -> None:
    path = place / "a"
    path.write_whole(b"abcde")
    version, content = path.mapped()
    assert version == path.version()
    np.testing.assert_array_equal(content, np.frombuffer(b"abcde", np.uint8))
    assert path.mapped(version) is None
    path.write_whole(b"other")
    later, content = path.mapped(version)
    assert later == path.version() != version
    assert content.tobytes() == b"other"
    path.write_whole()
    assert path.mapped()[1].size == 0
    path.unlink()
    with pytest.raises(FileNotFoundError):
        path.mapped(later)


def test_a_file_that_is_written_again_is_another_version(place: StorePath) -> None:
    path = place / "a"
    path.write_whole(b"one")
    before = path.version()
    assert path.version() == before
    path.write_whole(b"two")
    assert path.version() != before
    assert path.read_bytes() == b"two"


def test_what_is_not_there_is_not_found(place: StorePath) -> None:
    for read in (StorePath.read_bytes, StorePath.mapped, StorePath.unlink):
        with pytest.raises(FileNotFoundError):
            getattr(place / "a", read.__name__)()
    with pytest.raises(FileNotFoundError):
        (place / "a").read_from(0)
    with pytest.raises(FileNotFoundError):
        (place / "a").read_from(0, 1)
    with pytest.raises(FileNotFoundError):
        (place / "a").move_to(place / "b")
    (place / "a").unlink(missing_ok=True)
    (place / "a").remove_tree()
    assert list(place.children()) == []
    assert place.listing() == {}


def test_the_same_bytes_of_many_files_are_read_and_what_is_no_file_is_none(place: StorePath) -> None:
    names = ["c/0/1", "c/0/0", "c/10/2"]
    for name in names:
        (place / name).write_whole(name.encode())
    assert place.read_each([*names, "c/7", "c/0"], 2, 3) == [b"0/1", b"0/0", b"10/", None, None]


def test_one_of_many_creators_wins(place: StorePath) -> None:
    begin, won = threading.Barrier(8), []

    def create(k: int) -> None:
        begin.wait()
        if (place / "claim").create_whole(b"%d" % k):
            won.append(k)

    threads = [threading.Thread(target=create, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (place / "claim").read_bytes() == b"%d" % won[0]
    assert not (place / "claim").create_whole(b"late")
    assert [path.name for path in place.children()] == ["claim"]


def test_folders_are_listed_one_by_one_and_whole(place: StorePath) -> None:
    for name in ("c/0/1", "c/0/0", "c/10/2", "zarr.json"):
        (place / name).write_whole(name.encode())
    assert [path.name for path in place.children()] == ["c", "zarr.json"]
    assert [path.name for path in (place / "c").children()] == ["0", "10"]
    listing = place.listing()
    assert {name: listed.bytes for name, listed in listing.items()} == {
        "c/0/0": 5,
        "c/0/1": 5,
        "c/10/2": 6,
        "zarr.json": 9,
    }
    assert listing["c/0/1"].version == (place / "c/0/1").version()
    assert dict(place.sizes()) == {name: listed.bytes for name, listed in listing.items()}
    assert list((place / "none").sizes()) == []
    (place / "c").remove_tree()
    assert list(place.listing()) == ["zarr.json"]


def test_a_folder_is_made_with_the_file_that_says_so(place: StorePath) -> None:
    files = {"zarr.json": (b"{}",), "k/zarr.json": (b"{", b"}"), "k/c/0": (b"values", b"crc")}
    for _ in range(2):  # a second driver writes the same
        (place / "g.zarr").make_whole(iter(files.items()), "zarr.json")
        listing = (place / "g.zarr").listing()
        assert {name: listed.bytes for name, listed in listing.items()} == {
            name: sum(map(len, parts)) for name, parts in files.items()
        }
    assert [path.name for path in place.children()] == ["g.zarr"]


def test_a_folder_whose_making_was_stopped_is_not_there(place: StorePath) -> None:
    def files() -> Iterator[tuple[str, tuple[bytes, ...]]]:
        yield "zarr.json", (b"{}",)
        yield "k/zarr.json", (b"{}",)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        (place / "g.zarr").make_whole(files(), "zarr.json")
    assert not (place / "g.zarr" / "zarr.json").is_file()
    place.sweep(["c"])
    (place / "g.zarr").make_whole([("zarr.json", (b"{}",))], "zarr.json")
    assert (place / "g.zarr" / "zarr.json").is_file()


def test_files_are_moved_and_shared(place: StorePath) -> None:
    (place / "a").write_whole(b"abc")
    (place / "a").share_with(place / "deep/b")
    place.joinpath("deep").sync()
    with pytest.raises(FileExistsError):
        (place / "a").share_with(place / "deep/b")
    (place / "a").move_to(place / "far/c")
    assert {name: (place / name).read_bytes() for name in place.listing()} == {"deep/b": b"abc", "far/c": b"abc"}


def test_a_durable_log_is_new_and_safe_line_by_line(place: StorePath) -> None:
    log = (place / "journal/000001.jsonl").appender(durable=True)
    log.append(b"one\n")
    assert (place / "journal/000001.jsonl").read_bytes() == b"one\n"
    with pytest.raises(FileExistsError):
        (place / "journal/000001.jsonl").appender(durable=True)
    log.append(b"two\n")
    log.close()
    assert (place / "journal/000001.jsonl").read_bytes() == b"one\ntwo\n"


def test_a_log_that_promises_nothing_is_whole_when_it_is_closed(place: StorePath) -> None:
    lines = [b"%06d %s\n" % (k, b"x" * 1000) for k in range(600)]
    log = (place / "log.jsonl").appender(durable=False)
    for line in lines:
        log.append(line)
    log.close()
    parts = [(place / name).read_bytes() for name in place.listing()]
    assert sorted(b"".join(parts).splitlines(keepends=True)) == lines


def test_the_last_lines_of_a_quiet_log_do_not_wait_for_the_next_one(
    place: StorePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails without the timer: a process that is killed later takes its last lines with it."""
    monkeypatch.setattr("cntk_pipeline.storage.objects.UNSAFE_SECONDS", 0.2)
    path = place / "log.jsonl"
    log = path.appender(durable=False)
    for said in (b"one\n", b"one\ntwo\n"):
        log.append(said[-4:])
        wait_until(lambda: path.is_file() and path.read_bytes() == said, "the line")  # noqa: B023
    log.close()
    assert path.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("name", ["..", "a/../../b", ".", "a//b", ""])
def test_no_name_leads_out_of_a_bucket(name: str) -> None:
    with pytest.raises(ValueError, match="leads out of"):
        ObjectPath("bucket", "run") / name


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3://bucket", "s3://bucket/", "s3://bucket/../x", "s3://bucket/a/./b", "s3://bucket/a?x=1", "s3://B_/a"],
)
def test_what_is_no_place_in_a_bucket_is_said_to_be_none(url: str) -> None:
    with pytest.raises(ConfigError, match=r"expected s3://bucket/some/name"):
        open_path(url)


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match=r"belong into the environment \(AWS_ACCESS_KEY_ID") as refused:
        open_path("s3://key:secret@bucket/run")
    assert "secret" not in str(refused.value).replace("AWS_SECRET", "")


def ask(url: str, environment: dict[str, str]) -> str:
    """Ask in a process of its own whether something exists, and return the error or the answer."""
    code = (
        "import sys\n"
        "from cntk_pipeline.storage import open_path\n"
        "try:\n"
        "    print(open_path(sys.argv[1]).exists())\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, url], env=environment, capture_output=True, text=True)
    return ended.stdout + ended.stderr


@pytest.mark.slow
def test_a_bucket_without_credentials_says_what_to_set() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    nobody = {"AWS_METADATA_ENDPOINT": "http://127.0.0.1:9", "AWS_ALLOW_HTTP": "true"}
    said = ask("s3://some-bucket/run", environment | nobody)
    assert said.startswith("StoreError no credentials for s3://some-bucket/run: set AWS_ACCESS_KEY_ID")


def test_credentials_are_those_of_the_environment_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook that is told to set them sets them, and temporary ones are renewed."""
    obstore = pytest.importorskip("obstore")

    def signed(prefix: str) -> str:
        return str(obstore.sign(objects._open_bucket("some-bucket", prefix), "GET", "key", timedelta(minutes=1)))

    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret-of-anybody")
    for name in ("first", "second", "first"):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", name)
        for prefix in ("", "run"):
            assert f"X-Amz-Credential={name}%2F" in signed(prefix)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "renewed")
    assert "X-Amz-Security-Token=renewed" in signed("")
    assert objects._open_bucket("some-bucket", "") is objects._open_bucket("some-bucket", "")


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_not_there_is_named() -> None:
    with pytest.raises(StoreError, match=r"there is no bucket 'nobodys-bucket': make it"):
        (open_path("s3://nobodys-bucket/run") / "run.json").write_whole(b"{}")


def test_a_wrong_secret_is_refused_and_not_repeated(bucket: str) -> None:
    said = ask(f"s3://{bucket}/x", os.environ | {"AWS_SECRET_ACCESS_KEY": "guessed-wrong"})
    assert "may not be read or written with the credentials of this process" in said
    assert "guessed-wrong" not in said


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(ConfigError, match=r"gopher:// is no store that is known: give a local directory, or one of s3"):
        open_path("gopher://somewhere/run")


def test_a_place_is_found_again_by_its_text(tmp_path: LocalPath) -> None:
    assert open_path(str(tmp_path)) == tmp_path
    remote = open_path("s3://some.bucket/a/b/")
    assert (str(remote), remote.name, str(remote.parent)) == ("s3://some.bucket/a/b", "b", "s3://some.bucket/a")
    assert open_path(str(remote)) == remote
    assert remote / "c" == remote.joinpath("c") != remote


def test_links_that_lead_elsewhere_are_seen(tmp_path: LocalPath) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run/inside").symlink_to(tmp_path / "run")
    (tmp_path / "run/outside").symlink_to(tmp_path / "elsewhere")
    assert not (tmp_path / "run/inside/c").leads_out_of(tmp_path / "run")
    assert (tmp_path / "run/outside/c").leads_out_of(tmp_path / "run")


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP])
def test_what_cannot_be_linked_is_copied(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    (tmp_path / "a").write_bytes(b"abc")

    def link(source: Path, target: Path) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(os, "link", link)
    (tmp_path / "a").share_with(tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"abc"
    code = errno.ENOSPC
    with pytest.raises(OSError, match="no"):
        (tmp_path / "a").share_with(tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_local_file_is_synced_before_it_has_its_name(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("rename"), replace(*names)))
    (tmp_path / "a").write_whole(b"abc")
    assert order == ["fsync", "rename", "fsync"]  # the last one is of the directory


def test_a_file_that_is_swept_before_it_has_its_name_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Drivers that are about to be refused write beside the one that holds the lease and sweeps.
    link, swept = os.link, []

    def sweep_and_link(source: Path, target: Path) -> None:
        if not swept:
            swept.append(LocalPath(tmp_path).sweep(["lease"]))
        link(source, target)

    monkeypatch.setattr(os, "link", sweep_and_link)
    assert (LocalPath(tmp_path) / "lease" / "000001.json").create_whole(b"{}")
    assert swept == [1]
    assert (tmp_path / "lease" / "000001.json").read_bytes() == b"{}"


def test_what_fails_for_the_moment_is_asked_again_and_what_goes_on_failing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "DELAYS_SECONDS", (0.0, 0.0))
    stat, calls = LocalPath.stat, []

    def stumble(times: int, number: int) -> None:
        calls.clear()

        def failing(path: LocalPath, **options: object) -> os.stat_result:
            calls.append(path)
            if len(calls) <= times:
                raise OSError(number, os.strerror(number), str(path))
            return stat(path, **options)

        monkeypatch.setattr(LocalPath, "stat", failing)

    file = LocalPath(tmp_path) / "chunk"
    file.write_whole(b"12345")
    stumble(2, errno.EIO)
    assert file.size() == 5
    stumble(3, errno.EIO)
    with pytest.raises(
        StoreUnavailable, match=r"chunk cannot be read or written: Input/output error.*the same command"
    ):
        file.size()
    stumble(1, errno.EACCES)
    with pytest.raises(StoreError, match=r"chunk cannot be read or written: Permission denied"):
        file.is_file()
    assert len(calls) == 1


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without links; Linux asks first whether the name exists."""

    def no_link(_: Path, target: Path) -> None:
        code = errno.EEXIST if os.path.lexists(target) else errno.EPERM
        raise OSError(code, os.strerror(code), str(target))

    monkeypatch.setattr(os, "link", no_link)
    monkeypatch.setattr(lacking, "CLAIM_SECONDS", 0.05)


@pytest.mark.usefixtures("no_links")
def test_a_name_whose_claimer_was_killed_is_given_to_the_next_where_nothing_can_be_linked(tmp_path: LocalPath) -> None:
    (tmp_path / "a").touch()
    assert (tmp_path / "a").create_whole(b"whole")
    assert not (tmp_path / "a").create_whole(b"late")
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.usefixtures("no_links")
def test_what_is_no_file_is_no_claim(tmp_path: LocalPath) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    assert not (tmp_path / "link").create_whole(b"whole")
    assert not (tmp_path / "folder").create_whole(b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link"]


@pytest.mark.parametrize("write", ["write_whole", "create_whole"])
def test_a_folder_that_takes_no_new_names_is_an_error_and_not_asked_for_ever(write: str) -> None:
    for path in (LocalPath("/proc/a"), LocalPath("/proc/deep/a")):
        with pytest.raises(StoreError, match=r"/proc takes no new files: .* or name another place, then the same"):
            getattr(path, write)(b"a")


def test_a_file_is_shared_with_a_place_of_another_kind(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    monkeypatch.setattr(objects, "_open_bucket", lambda *_: store)
    bucket = open_path("s3://bucket/run")
    for source, target in ((tmp_path / "a", bucket / "deep/b"), (bucket / "c", tmp_path / "deep/d")):
        source.write_whole(b"abc")
        source.share_with(target)
        assert (source.read_bytes(), target.read_bytes()) == (b"abc", b"abc")
        source.write_whole(b"other")
        with pytest.raises(FileExistsError):
            source.share_with(target)
        with pytest.raises(FileNotFoundError):
            (source.parent / "none").share_with(target.parent / "e")


def test_the_age_of_a_file_is_known(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    monkeypatch.setattr(objects, "_open_bucket", lambda *_: store)
    for path in (tmp_path / "a", open_path("s3://bucket/a")):
        assert path.age_seconds() is None
        path.write_whole(b"abc")
        assert -1 < path.age_seconds() < 60
    os.utime(tmp_path / "a", (1e9, 1e9))
    assert (tmp_path / "a").age_seconds() > 1e8


@pytest.mark.parametrize("call", ["fsync of the file", "link", "fsync of the folder"])
@pytest.mark.parametrize("write", ["write_whole", "create_whole"])
def test_a_file_is_written_again_where_a_step_fails_for_the_moment(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch, call: str, write: str
) -> None:
    monkeypatch.setattr(retries, "DELAYS_SECONDS", (0.0, 0.0))
    failures: list[str] = []

    def stumbling(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def once(*arguments: object) -> object:
            if not failures:
                failures.append(name)
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            return real(*arguments)

        return once

    if call == "fsync of the file":
        monkeypatch.setattr(os, "fsync", stumbling(call, os.fsync))
    elif call == "link":
        monkeypatch.setattr(os, "link", stumbling(call, os.link))
        monkeypatch.setattr(os, "replace", stumbling(call, os.replace))
    else:
        monkeypatch.setattr(local, "keep_names", stumbling(call, local.keep_names))
    assert getattr(tmp_path / "a", write)(b"mine") in (None, True)
    assert failures == [call]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"mine"}
    assert not (tmp_path / "a").create_whole(b"mine")  # which another call has made


def test_a_file_of_another_call_is_not_taken_for_the_own_one(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "DELAYS_SECONDS", (0.0,))
    link = os.link

    def late(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        (tmp_path / "a").create_whole(b"another's")
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(os, "link", late)
    assert not (tmp_path / "a").create_whole(b"mine")
    assert (tmp_path / "a").read_bytes() == b"another's"


def test_commands_that_go_on_name_a_path_as_a_shell_reads_it() -> None:
    assert "then `cntk resume '/data/my runs/a'`" in str(explanations.disk_full("/data/my runs/a"))
    assert "then the same command again" in str(explanations.disk_full("/data/my runs/a", None))
    with (
        pytest.raises(StoreError, match=r"then `cntk cancel --now '/data/my runs/a'`"),
        explanations.store_explained("/data/my runs/a", "cancel --now"),
    ):
        raise OSError(errno.EIO, "no")
