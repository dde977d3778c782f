"""The kernel of a program on a device of this machine, by cuda-core: compiling, memory, launches."""

import importlib.util
import queue
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.kernels.cuda.buffers import BLOCKS_PER_MULTIPROCESSOR, SLOTS, launch_bytes
from cntk_pipeline.kernels.cuda.layout import Layout
from cntk_pipeline.kernels.cuda.packing import Packed
from cntk_pipeline.kernels.cuda.slots import Slot
from cntk_pipeline.kernels.cuda.source import write_source
from cntk_pipeline.kernels.program import Array, Program


def errors_of_driver() -> tuple[type[Exception], ...]:
    """Return the type of the errors of CUDA's driver; none where cuda-core is not installed."""
    try:
        from cuda.core._utils.cuda_utils import CUDAError  # it has no public name
    except ImportError:
        return ()
    return (CUDAError,)


def require_compiler() -> None:
    """Refuse an installation without cuda-core.

    Raises
    ------
    ConfigError
        With what to install.
    """
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.core") is None:
        raise ConfigError(
            'the engine "cuda" needs cuda-core, which is not installed: pip install "cntk-pipeline[cuda]", '
            'or take engine = "cpu"'
        )


@lru_cache(maxsize=2)
def compile_cubin(source: str, architecture: str) -> Any:
    """Compile the text of a kernel, once for all who ask; needs no device.

    Parameters
    ----------
    architecture : str
        As ``sm_90``.

    Returns
    -------
    cuda.core.ObjectCode

    Raises
    ------
    ConfigError
        If cuda-core is not installed.
    """
    require_compiler()
    from cuda.core import Program as CudaProgram
    from cuda.core import ProgramOptions

    # Roots and quotients by one instruction, right to a unit in the last place: as exact as what they are used for.
    options = ProgramOptions(std="c++17", arch=architecture, prec_sqrt=False, prec_div=False, ftz=True)
    return CudaProgram(source, "c++", options).compile("cubin")


@dataclass(frozen=True)
class Flight:
    """A launch that was started.

    Attributes
    ----------
    slot : Slot
        Its own until it is finished.
    done : cuda.core.Event
        Lies behind the last of its copies.
    values : float64 array, (pairs, readouts)
        In pinned memory, to be read behind ``done``.
    """

    slot: Slot
    done: Any
    values: Array


class DeviceLauncher:
    """Runs the kernel of a program on the first device that the process sees; any number of threads may share it.

    Launches have a stream each, `SLOTS` of them at once: while one computes, the images of the next one are copied.

    Parameters
    ----------
    architecture : str
        That the run is computed by; the device must be of it.

    Raises
    ------
    ConfigError
        If there is no driver, no device, one of another architecture, or one without the memory of the launches.
    """

    def __init__(self, program: Program, layout: Layout, architecture: str) -> None:
        require_compiler()
        self.layout = layout
        self._readout_count = program.readout_count
        self._device = _open_device(architecture)
        multiprocessors = self._device.properties.multiprocessor_count
        require_memory(launch_bytes(program, layout, multiprocessors), *_memory_here(), self._device.name)
        # Kept, since the kernel is a part of it.
        self._code = compile_cubin(write_source(program, layout), architecture)
        self._kernel = _load(self._code, self._device.name)
        self._blocks = BLOCKS_PER_MULTIPROCESSOR * multiprocessors
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for _ in range(SLOTS):
            self._free.put(Slot(self._device))
        self._order = threading.Lock()
        self._tensors: Any = None
        self._last: Any = None  # event behind the launch that had the tensors

    def start(self, left: Packed, right: Packed, pairs: Array, *, wait: bool = True) -> Flight | None:
        """Start pairs; see `Launcher.start`."""
        try:
            slot = self._free.get(block=wait)
        except queue.Empty:
            return None
        try:
            return self._start(slot, left, right, pairs)
        except BaseException:
            self._free.put(slot)
            raise

    def finish(self, flight: Flight) -> Array:
        """Wait for a launch; see `Launcher.finish`."""
        try:
            flight.done.sync()
            return flight.values.copy()
        finally:
            self._free.put(flight.slot)

    def _start(self, slot: Slot, left: Packed, right: Packed, pairs: Array) -> Flight:
        from cuda.core import EventOptions, LaunchConfig, launch

        self._device.set_current()  # this may be another thread
        sent = {"left pixels": left.pixels, "right pixels": right.pixels, "left": left.statistics}
        sent |= {"right": right.statistics, "pairs": pairs}
        inputs = [slot.send(name, array) for name, array in sent.items()]
        shape = len(pairs), self._readout_count
        outputs = slot.reserve("values", 8 * len(pairs) * self._readout_count)
        blocks = max(1, min(self._blocks, -(-len(pairs) // self.layout.pairs)))
        config = LaunchConfig(grid=blocks, block=32 * self.layout.warps)
        sizes = np.int32(len(pairs)), np.int32(right.statistics[0].size)
        with self._order:
            tensors = self._clear_tensors(slot) if self.layout.tensor_size else outputs  # a pointer that is not used
            launch(slot.stream, config, self._kernel, *inputs, *sizes, outputs, tensors)
            if self.layout.tensor_size:
                self._last = slot.stream.record()
        values = slot.fetch("values", shape, np.dtype(np.float64))
        # A thread that waits leaves its core to the others: they prepare images.
        return Flight(slot, slot.stream.record(options=EventOptions(blocking_sync=True)), values)

    def _clear_tensors(self, slot: Slot) -> Any:
        """Return the tensors of all blocks, behind the launch before: they are too large to be there for each slot."""
        if self._tensors is None:
            numbers = self._blocks * self.layout.pairs * self.layout.tensor_size
            self._tensors = self._device.allocate(numbers * self.layout.dtype.itemsize, stream=slot.stream)
        else:
            slot.stream.wait(self._last)
        self._tensors.fill(0, stream=slot.stream)  # what is read there beyond what was written has weight 0
        return self._tensors


def _load(code: Any, name: str) -> Any:
    """Load the kernel of a cubin.

    Raises
    ------
    ConfigError
        If the driver takes no such code.
    """
    try:
        return code.get_kernel("evaluate")
    except errors_of_driver() as error:
        raise ConfigError(
            f"the driver of {name} does not load the kernel: {error} A driver must be as new as the compiler: update "
            "it, or install the cuda-core for the driver at hand: docs/gpu.md"
        ) from None


def _open_device(architecture: str) -> Any:
    from cuda.core import Device

    # There is no driver, or it finds no device.
    refusals: tuple[type[Exception], ...] = (RuntimeError, *errors_of_driver())
    try:
        device = Device()
        device.set_current()
    except refusals as error:
        raise ConfigError(
            f'the engine "cuda" found no device: {error} Compute on a machine that has one, or take engine = "cpu"'
        ) from None
    found = f"sm_{device.arch}"
    if found != architecture:
        raise ConfigError(
            f'kernel.architecture is "{architecture}", and the device here, {device.name}, is of "{found}": their '
            "values differ in the last digits, and one kernel holds those of one alone. Compute on a device of the "
            f'architecture, or write architecture = "{found}" and compute anew in another --store'
        )
    return device


def _memory_here() -> tuple[int, int]:
    """Ask the driver for the free and for all bytes of the current device."""
    from cuda.bindings import driver

    status, free, total = driver.cuMemGetInfo()
    if status != driver.CUresult.CUDA_SUCCESS:
        raise ConfigError(f"the graphics card does not say how much memory it has: {status.name}. Take another card")
    return free, total


def require_memory(needed_bytes: int, free_bytes: int, total_bytes: int, name: str) -> None:
    """Refuse a device that has no room for a launch, before a tile is computed.

    Raises
    ------
    ConfigError
        With the need and what is free.
    """
    if needed_bytes > free_bytes:
        raise ConfigError(
            f"a launch of this kernel holds {needed_bytes / 1e6:,.0f} MB on a graphics card, and of the "
            f"{total_bytes / 1e6:,.0f} MB of {name}, {free_bytes / 1e6:,.0f} MB are free: end what else computes on "
            "it, or give each worker a larger card"
        )
