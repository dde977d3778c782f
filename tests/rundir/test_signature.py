"""The user's key: nobody else's file counts, and of several at once one is made."""

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cntk_pipeline.rundir import signature


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = Path(tmp_path / "configuration" / "key")
    monkeypatch.setenv(signature.KEY_VARIABLE, str(path))
    return path


def test_the_key_is_made_once_for_its_owner_alone_and_signs_the_same_ever_after(key: Path) -> None:
    assert not signature.is_signed("", "purpose", "a"), "looking makes no key"
    assert not key.exists()
    signed = signature.sign("purpose", "a", "b")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert [file.name for file in key.parent.iterdir()] == ["key"]
    assert signature.is_signed(signed, "purpose", "a", "b")
    assert signature.sign("purpose", "a", "b") == signed


@pytest.mark.parametrize(
    "other",
    [("purpose", "a"), ("purpose", "ab", ""), ("purpose", "b", "a"), ("another", "a", "b"), ("purpose", 'a", "b')],
)
def test_a_signature_is_of_these_words_in_this_order(key: Path, other: tuple[str, ...]) -> None:
    assert not signature.is_signed(signature.sign("purpose", "a", "b"), *other)


@pytest.mark.parametrize("found", [None, 7, "", "\udcff", ["a"], {}, "0" * 64, "\u0660" * 64])
def test_anything_else_in_the_place_of_a_signature_is_none(key: Path, found: object) -> None:
    signature.sign("purpose")
    assert not signature.is_signed(found, "purpose")


@pytest.mark.parametrize("what", ["read by others", "fifo", "folder", "short", "long"])
def test_a_key_that_proves_nothing_is_not_used_and_said_to_be(key: Path, what: str) -> None:
    key.parent.mkdir()
    match what:
        case "read by others":
            signature.sign("purpose")
            key.chmod(0o640)
        case "fifo":
            os.mkfifo(key, 0o600)
        case "folder":
            key.mkdir(0o700)
        case _:
            key.write_bytes(bytes(31 if what == "short" else 33))
            key.chmod(0o600)
    assert signature.sign("purpose") == ""
    assert str(key) in signature.find_key().problem


def test_a_tilde_in_the_name_of_the_key_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Seen to fail: the key lay in a folder named "~" in the current directory, and another one in the next."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(signature.KEY_VARIABLE, "~/key")
    monkeypatch.chdir(tmp_path)
    assert signature.sign("purpose")
    assert (tmp_path / "home" / "key").is_file()
    monkeypatch.setenv(signature.KEY_VARIABLE, "~nobody-of-this-name/key")
    assert signature.key_path() is None


def test_without_a_home_nothing_is_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(signature.KEY_VARIABLE)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert signature.sign("purpose") == ""
    assert "has no home" in signature.find_key().problem


def test_of_several_that_sign_at_once_one_makes_the_key(key: Path) -> None:
    """Seen to fail where the last one writes over the first one's, whose signatures then count no more."""
    for _ in range(20):
        key.unlink(missing_ok=True)
        begin = threading.Barrier(8)

        def signed(number: int, begin: threading.Barrier = begin) -> str:
            begin.wait()
            return signature.sign("purpose")

        with ThreadPoolExecutor(8) as threads:
            assert len(set(threads.map(signed, range(8)))) == 1
