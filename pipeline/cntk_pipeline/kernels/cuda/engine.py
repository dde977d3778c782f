"""The engine that computes exact kernels on a device: the CPU's program, printed as CUDA C."""

import threading
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from cntk_pipeline.config.section import Section
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.kernels.base import Engine, Question
from cntk_pipeline.kernels.cuda.buffers import SLOTS, feeding_pairs, kept_bytes, launch_size, slot_bytes
from cntk_pipeline.kernels.cuda.counted import count_pair_seconds
from cntk_pipeline.kernels.cuda.device import DeviceLauncher
from cntk_pipeline.kernels.cuda.evaluator import CudaEvaluator, Launcher
from cntk_pipeline.kernels.cuda.layout import lay_out
from cntk_pipeline.kernels.cuda.supported import require_supported
from cntk_pipeline.kernels.evaluator import require_mirrors
from cntk_pipeline.kernels.lanes import LANES
from cntk_pipeline.kernels.lowering import count_revisions, lower
from cntk_pipeline.kernels.memory import planes_dtype, working_bytes
from cntk_pipeline.kernels.program import Array
from cntk_pipeline.kernels.timing import PairCost, time_by_clock, time_pairs

if TYPE_CHECKING:
    from cntk_pipeline.kernels.summaries import NodeSummary, Summary


class CudaOptions(Section):
    """The keys of ``engine = "cuda"``.

    Attributes
    ----------
    architecture : str
        Of the devices, since it decides the last digits: ``sm_80`` is A100, ``sm_89`` L4, ``sm_90`` H100 and H200,
        ``sm_100`` B200. Workers with another one are refused.
    """

    architecture: str = Field(default="sm_90", pattern=r"^sm_[1-9]\d{1,2}$")


class CudaEngine(Engine):
    """Lowers the networks as the CPU's engine does, and runs the program on a device.

    Raises
    ------
    LayerError
        If a network does not accept the shape, or holds what the kernel cannot do: with the layer.
    """

    numerics_version: ClassVar[int] = 1
    lane_width = LANES
    uses_devices: ClassVar[bool] = True
    is_exact: ClassVar[bool] = True
    options_type: ClassVar[type[Section]] = CudaOptions

    def __init__(self, question: Question, options: Section | None = None) -> None:
        super().__init__(question, options)
        self.program = lower(question.readouts, question.input_shape)
        require_mirrors(self.program, question.flips)
        require_supported(self.program, question.readouts, question.input_shape)
        self.layout = lay_out(self.program, planes_dtype(self.program, np.dtype(question.dtype)))
        self._architecture = (options if isinstance(options, CudaOptions) else CudaOptions()).architecture
        self._kept: Launcher | None = None
        self._lock = threading.Lock()

    @classmethod
    def version_for(cls, question: Question) -> int:
        return cls.numerics_version + count_revisions(question.readouts, question.input_shape, question.dtype)

    def evaluator(self) -> CudaEvaluator:
        with self._lock:
            if self._kept is None:  # compiling takes seconds, and every tile asks for an evaluator
                self._kept = self.launcher()
        return CudaEvaluator(self.program, self.question.dtype, self.question.flips, self._kept)

    def launcher(self) -> Launcher:
        """Compile the program's kernel and open the device.

        Raises
        ------
        ConfigError
            If there is none, or cuda-core is not installed.
        """
        return DeviceLauncher(self.program, self.layout, self._architecture)

    def working_bytes(self, tile: int) -> int:
        # Pinned memory, and the launch that is prepared: its images, statistics before and after packing, its pairs.
        pinned = SLOTS * slot_bytes(self.program, self.layout)
        cpu = working_bytes(self.program, np.dtype(self.question.dtype).itemsize)
        kept = kept_bytes(self.program, self.layout, tile)
        return pinned + 2 * slot_bytes(self.program, self.layout) + kept + cpu

    @property
    def least_pairs(self) -> int:
        return feeding_pairs(self.layout)

    def measure(self, sample: Array) -> PairCost:
        """Measure the seconds of a pair; a machine without a device of the architecture takes counted ones."""
        try:
            launcher = self.launcher()  # not kept: the workers of this machine need its memory on the device
        except ConfigError:  # a login node of a cluster, say: its workers are asked for their devices
            return PairCost(count_pair_seconds(self.program, self.layout.dtype, self._architecture), 0.0)
        evaluator = CudaEvaluator(self.program, self.question.dtype, self.question.flips, launcher)
        rows = launch_size(self.program, self.layout)
        return PairCost(time_pairs(evaluator.evaluate, sample, rows, self.lane_width, time_by_clock), 1.0)

    @property
    def plane_entries(self) -> int:
        return self.program.plane_entries

    def summary(self, number: int) -> "Summary | NodeSummary":
        from cntk_pipeline.kernels.summaries import summary

        network, kind = self.question.readouts[number]
        return summary(network, self.question.input_shape, kind=kind)
