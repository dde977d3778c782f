"""What a pair of images costs: guessed by counting, or measured, on a part of the pair where it is large.

A pooled network of 11 layers visits 25 billion plane entries for a pair of 224 x 224 images, 16 pairs at once: minutes.
Its time is that of its planes, so a few of them, as large as they are, tell it in a moment.
"""

from dataclasses import replace

import numpy as np

from cntk_pipeline.kernels.evaluator import CpuEvaluator
from cntk_pipeline.kernels.lanes import LANES
from cntk_pipeline.kernels.memory import group_size
from cntk_pipeline.kernels.program import Array, Program, Stage, Visits
from cntk_pipeline.kernels.timing import SAMPLE_SECONDS, PairCost, time_pairs

LONGEST_WHOLE_SECONDS = 0.5
"""Where 16 pairs are guessed to take longer, a part of them is measured."""

ENTRY_SECONDS = 1e-9
"""About what an entry of a plane costs a core in float32; see `benchmarks/tile.py`."""

TURNS = 2
"""How often a part and the least part are measured."""

LARGER_PARTS = (1, 4, 16)
"""How many times as large the part becomes where its planes cost too little to be told from all else."""

CLEARLY_MORE = 1.5
"""A part that costs this many times the least part tells the time of its planes."""


def guess_pair_seconds(program: Program, dtype: str, flips: bool) -> float:
    """Guess the seconds of a pair on one core by counting, right to a factor of about four."""
    work = program.plane_entries + int(np.prod(program.input_shape)) / 4
    return work * ENTRY_SECONDS * (4 if dtype == "float64" else 1) * (2 if flips else 1)


def measure_pair(program: Program, dtype: str, flips: bool, sample: Array) -> PairCost:
    """Measure the seconds of one pair on one core, after compilation, on a tile as large as the time allows.

    Preparing images costs a share that falls as tiles grow, so a small sample would foretell too much. Where 16 pairs,
    which are computed at once, would take longer than a sample may, some of their planes are, and those at offset zero
    alone; the rest follows from how many entries they have.

    Parameters
    ----------
    sample : array
        Standardised images; repeated as often as needed.
    """
    if quick_part(program, dtype, flips) is program:
        return PairCost(_measure(program, dtype, flips, sample), 1.0)
    least = part_of(program, 0)
    # Kept where the planes' own time is lost in all else, however large the part.
    entry_seconds = guess_pair_seconds(program, dtype, flips) / program.plane_entries
    for times_larger in LARGER_PARTS:
        part = quick_part(program, dtype, flips, times_larger)
        # In turns, the shorter time of each: other programs, and memory that is touched for the first time, only add.
        turns = [[_measure(some, dtype, flips, sample) for some in (part, least)] for _ in range(TURNS)]
        seconds, base = (min(times) for times in zip(*turns, strict=True))
        more = part.plane_entries - least.plane_entries
        if more and seconds > CLEARLY_MORE * base:
            entry_seconds = (seconds - base) / more
            break
    rest = (program.plane_entries - part.plane_entries) * entry_seconds
    return PairCost(seconds + rest, part.plane_entries / program.plane_entries)


def quick_part(program: Program, dtype: str, flips: bool, times_larger: int = 1) -> Program:
    """Cut a program down to what computes 16 pairs in a moment, or in some moments; return one that does so itself."""
    guessed = LANES * guess_pair_seconds(program, dtype, flips)
    share = times_larger * SAMPLE_SECONDS / 2 / guessed
    return program if guessed < LONGEST_WHOLE_SECONDS else part_of(program, share)


def part_of(program: Program, share: float) -> Program:
    """Cut a program down to about a share of its offsets, zero always among them; what it computes means nothing."""
    return replace(program, stages=tuple(_part_of_stage(stage, share) for stage in program.stages))


def _part_of_stage(stage: Stage, share: float) -> Stage:
    visits = stage.visits
    count = len(visits.offsets)
    # Offset zero comes first; the others are drawn, since planes differ in size along rows and columns.
    drawn = 1 + np.random.default_rng(0).permutation(max(count - 1, 0))[: int(share * count)]
    chosen = np.concatenate([np.arange(min(count, 1)), np.sort(drawn)])
    offsets, marks = visits.offsets[chosen], np.ascontiguousarray(visits.marks[:, chosen])
    return replace(stage, visits=Visits(offsets, marks))


def _measure(program: Program, dtype: str, flips: bool, sample: Array) -> float:
    group = group_size(program, np.dtype(dtype).itemsize)
    return time_pairs(CpuEvaluator(program, dtype, flips).evaluate, sample, group, LANES)
