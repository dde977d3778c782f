"""The seeds of the fuzzer, and what it has found; `make chaos` lets it look for more."""

import pytest
from faults.fuzz.readers import KINDS, read, seeds
from hypothesis import given
from hypothesis import strategies as st

CRASHED: list[bytes] = []
"""What ended in another error once."""


@pytest.mark.parametrize("data", seeds() + CRASHED, ids=lambda data: f"{data[0]}-{len(data)}")
def test_what_the_fuzzer_begins_with_and_has_found_is_borne(data: bytes) -> None:
    read(data)


@given(st.sampled_from(seeds()), st.data())
def test_seeds_with_some_bytes_changed_are_borne(seed: bytes, data: st.DataObject) -> None:
    begin = data.draw(st.integers(1, len(seed)))
    end = data.draw(st.integers(begin, min(len(seed), begin + 8)))
    read(seed[:begin] + data.draw(st.binary(max_size=8)) + seed[end:])


def test_every_kind_of_record_has_a_seed() -> None:
    assert [seed[0] for seed in seeds()] == list(range(len(KINDS) + 2))
