import os
from collections.abc import Callable

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
