import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ANY_PROGRAM, NO_PROGRAM = "sh", "cntk-no-such-program"


def test_what_is_there_is_taken(require: Callable[..., None]) -> None:
    require(ANY_PROGRAM)


def test_a_missing_part_skips_its_test(require: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CNTK_REQUIRE_REAL", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"cntk-no-such-program not found: run tests/real/install.sh"):
        require(ANY_PROGRAM, NO_PROGRAM)


def test_a_missing_part_fails_its_test_where_parts_are_required(
    require: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNTK_REQUIRE_REAL", "1")
    with pytest.raises(pytest.fail.Exception, match=r"cntk-no-such-program not found"):
        require(ANY_PROGRAM, NO_PROGRAM)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(pytest.fail.Exception, match=r"only root may do this"):
        require(ANY_PROGRAM, root=True)


LACKING = """
import pytest

@pytest.mark.skipif(True, reason="g++ is not installed")
def test_compiled(): ...

def test_imported():
    pytest.importorskip("cntk_no_such_module")

def test_elsewhere():
    pytest.skip("there is no loop device here")

def test_mounted():
    pytest.skip("no tmpfs can be mounted here")

@pytest.mark.xfail(reason="not installed", strict=True)
def test_expected():
    raise AssertionError

@pytest.mark.skipif(True, reason="mounting a small disk needs root")
def test_on_a_small_disk(): ...

def test_there(): ...
"""
WHOLE = 'import pytest\npytest.importorskip("cntk_no_such_module")\ndef test_of_it(): ...\n'


@pytest.mark.parametrize(
    ("required", "counts"),
    [(False, "1 passed, 6 skipped, 1 xfailed"), (True, "2 failed, 1 passed, 1 skipped, 1 xfailed, 3 errors")],
)
def test_what_can_be_installed_is_not_skipped_where_parts_are_required(
    tmp_path: Path, required: bool, counts: str
) -> None:
    """A file, marks and imports alike. Seen to fail without the hooks."""
    (tmp_path / "test_lacking.py").write_text(LACKING)
    (tmp_path / "test_whole.py").write_text(WHOLE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    environment = {name: value for name, value in os.environ.items() if name != "CNTK_REQUIRE_REAL"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1])} | ({"CNTK_REQUIRE_REAL": "1"} if required else {})
    options = ["-p", "support.required", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120).stdout
    assert counts in told, told
    assert ("CNTK_REQUIRE_REAL is set, and a part is missing" in told) == required
    assert ("g++ is not installed" in told) == required
