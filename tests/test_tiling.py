import pytest
from hypothesis import given
from hypothesis import strategies as st

from cntk_pipeline.gram.tiles import list_kernel_jobs
from cntk_pipeline.rundir.specification import (
    CentreSpecification,
    DataSpecification,
    ReadoutSpecification,
    Specification,
)
from cntk_pipeline.tiling import (
    LONGEST_SECONDS,
    MOST_TILES,
    Cut,
    choose_factor_tile,
    choose_tile,
    clip_tile,
    count_tiles,
    lower_tiles,
    total_pairs,
)

sizes = st.integers(1, 200)


@given(count=sizes, size=sizes)
def test_pieces_cover_all_samples_once(count: int, size: int) -> None:
    cut = Cut(count, size)
    covered = [sample for piece in range(cut.pieces) for sample in range(*cut.bounds(piece))]
    assert covered == list(range(count))


@given(train=sizes, test=sizes, size=st.integers(1, 64))
def test_tiles_of_a_run_compute_every_pair_once(train: int, test: int, size: int) -> None:
    jobs = list_kernel_jobs(Cut(train, size), Cut(test, size))
    assert sum(job.entries for job in jobs) == total_pairs(train, test)


@given(train=st.integers(1, 10**5), test=sizes, pair=st.floats(1e-7, 10), slots=st.integers(1, 4096))
def test_a_chosen_tile_is_whole_lanes_within_the_data_and_not_too_long(
    train: int, test: int, pair: float, slots: int
) -> None:
    tile = choose_tile(train, test, pair, slots)
    assert tile % 16 == 0
    assert 16 <= tile < max(train, test) + 16
    smaller_are_too_many = tile > 16 and count_tiles(train, test, tile - 16) > MOST_TILES
    assert tile == 16 or smaller_are_too_many or tile**2 * pair <= LONGEST_SECONDS * 1.001


def test_the_costliest_tile_keeps_the_longest_time_too() -> None:
    plain = choose_tile(10**5, 0, 1e-4, 2)
    assert plain**2 * 1e-4 == pytest.approx(LONGEST_SECONDS, rel=0.05)
    uneven = choose_tile(10**5, 0, 1e-4, 2, costliest=lambda tile: 9.0 * tile**2)
    assert uneven**2 * 9e-4 <= LONGEST_SECONDS < (uneven + 16) ** 2 * 9e-4
    small = choose_tile(2000, 0, 1e-4, 8, costliest=lambda tile: 9.0 * tile**2)
    of_slot = 2000 * 2001 / 2 * 1e-4 / 8
    assert small**2 * 9e-4 <= of_slot / 4 < (small + 16) ** 2 * 9e-4


def test_more_slots_choose_smaller_tiles() -> None:
    assert choose_tile(2000, 1000, 4e-5, 64) < choose_tile(2000, 1000, 4e-5, 2)


def test_a_tile_larger_than_the_data_is_cut_down() -> None:
    assert clip_tile(4096, 100, 30) == 112


@pytest.mark.parametrize(
    ("train", "tile", "wanted"), [(1008, 224, 896), (60_000, 512, 2048), (24_576, 512, 1024), (10, 16, 16)]
)
def test_a_factor_tile_is_whole_kernel_tiles_and_no_larger_than_the_data(train: int, tile: int, wanted: int) -> None:
    assert choose_factor_tile(train, tile) == wanted
    assert choose_factor_tile(train, tile, 1000) % tile == 0


@pytest.mark.parametrize(
    ("train", "tile", "slots", "wanted"),
    [
        (12_287, 512, 64, 1024),  # takes seconds with any tile
        (12_288, 128, 64, 768),
        (24_576, 512, 2, 1024),
        (24_576, 128, 32, 768),
        (60_000, 512, 8, 2048),
        (60_000, 512, 32, 1024),
        (60_000, 256, 512, 768),
        (200_000, 128, 4096, 2048),  # more block rows would read more than a store gives
        (60_000, 3000, 32, 3000),
    ],
)
def test_a_factor_on_known_slots_has_block_rows_for_them(train: int, tile: int, slots: int, wanted: int) -> None:
    assert choose_factor_tile(train, tile, slots=slots) == wanted


@given(train=st.integers(1, 10**6), tile=st.integers(1, 150).map(lambda lanes: 16 * lanes), slots=st.integers(1, 4000))
def test_more_slots_never_choose_larger_factor_tiles(train: int, tile: int, slots: int) -> None:
    few, more = (choose_factor_tile(train, tile, slots=count) for count in (slots, slots + 1))
    assert more <= few
    assert few % tile == 0
    assert few <= max(tile, 2048)


def test_tiles_are_no_wider_than_the_columns_of_the_centres() -> None:
    assert choose_tile(4000, 100, 1e-6, 1) > 112
    assert choose_tile(4000, 100, 1e-6, 1, centres=100) == 112


@pytest.mark.parametrize(("train", "test", "centres"), [(10, 3, None), (11, 0, None), (12, 5, 7), (4, 4, 4)])
def test_tiles_are_counted(train: int, test: int, centres: int | None) -> None:
    cut = Cut(train, 4)
    columns = cut.pieces if centres is None else Cut(centres, 4).pieces
    rows = list(lower_tiles(cut)) if centres is None else [(r, c) for r in range(cut.pieces) for c in range(columns)]
    assert count_tiles(train, test, 4, centres) == len(rows) + Cut(test, 4).pieces * columns


@pytest.mark.parametrize("centres", [None, 2000])
@pytest.mark.parametrize("train", [300_000, 1_000_000, 5_000_000])
def test_a_chosen_tile_never_cuts_a_kernel_into_more_than_a_run_may_have(train: int, centres: int | None) -> None:
    tile = choose_tile(train, 10_000, 5e-3, 64, centres=centres)
    assert count_tiles(train, 10_000, tile, centres) <= MOST_TILES
    data = DataSpecification("", train, 10_000, (32, 32, 3), ("a", "b"), False)
    chosen = None if centres is None else CentreSpecification(centres, "first")
    Specification(data, (ReadoutSpecification("x", "ntk", []),), "float32", False, tile, 1, centres=chosen)
    with pytest.raises(ValueError, match="more than 10000000 tiles"):
        Specification(data, (ReadoutSpecification("x", "ntk", []),), "float32", False, 1, 1, centres=chosen)
