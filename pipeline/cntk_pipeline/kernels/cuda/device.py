"""The kernel of a program on a device of this machine, by cuda-core: compiling, memory, launches."""

import importlib.util
import threading
from typing import Any

import numpy as np

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.kernels.cuda.buffers import BLOCKS_PER_MULTIPROCESSOR, launch_bytes
from cntk_pipeline.kernels.cuda.layout import Layout
from cntk_pipeline.kernels.cuda.packing import Packed
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


def compile_cubin(source: str, architecture: str) -> Any:
    """Compile the text of a kernel; needs no device.

    Parameters
    ----------
    architecture : as ``sm_90``.

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


class DeviceLauncher:
    """Runs the kernel of a program on the first device that the process sees; any number of threads may share it.

    Parameters
    ----------
    architecture : that the run is computed by; the device must be of it.

    Raises
    ------
    ConfigError
        If there is no driver, no device, one of another architecture, or one without the memory of a launch.
    """

    def __init__(self, program: Program, layout: Layout, architecture: str) -> None:
        require_compiler()
        self.layout = layout
        self._readout_count = program.readout_count
        self._device = _open_device(architecture)
        multiprocessors = self._device.properties.multiprocessor_count
        require_memory(launch_bytes(program, layout, multiprocessors), *_memory_here(), self._device.name)
        self._lock = threading.Lock()  # threads would share the stream, and need the memory of a launch each
        self._stream = self._device.create_stream()
        # Kept, since the kernel is a part of it.
        self._code = compile_cubin(write_source(program, layout), architecture)
        self._kernel = self._code.get_kernel("evaluate")
        self._blocks = BLOCKS_PER_MULTIPROCESSOR * multiprocessors

    def run(self, left: Packed, right: Packed, pairs: Array) -> Array:
        """Run pairs; see `Launcher.run`."""
        with self._lock:
            return self._run(left, right, pairs)

    def _run(self, left: Packed, right: Packed, pairs: Array) -> Array:
        from cuda.core import LaunchConfig, launch

        self._device.set_current()  # this may be another thread
        sent = [left.pixels, right.pixels, left.statistics, right.statistics, np.ascontiguousarray(pairs, np.int32)]
        inputs = [self._send(array) for array in sent]
        readouts = np.empty((len(pairs), self._readout_count))
        blocks = max(1, min(self._blocks, -(-len(pairs) // self.layout.pairs)))
        outputs = self._allocate(readouts.nbytes)
        tensors = self._allocate(blocks * self.layout.pairs * self.layout.tensor_size * self.layout.dtype.itemsize)
        tensors.fill(0, stream=self._stream)  # what is read there beyond what was written has weight 0
        config = LaunchConfig(grid=blocks, block=32 * self.layout.warps)
        sizes = np.int32(len(pairs)), np.int32(right.statistics[0].size)
        launch(self._stream, config, self._kernel, *inputs, *sizes, outputs, tensors)
        _host(readouts).copy_from(outputs, stream=self._stream)
        self._stream.sync()
        return readouts

    def _send(self, array: Array) -> Any:
        buffer = self._allocate(array.nbytes)
        if array.nbytes:
            buffer.copy_from(_host(array), stream=self._stream)
        return buffer

    def _allocate(self, size_bytes: int) -> Any:
        return self._device.allocate(max(size_bytes, 16), stream=self._stream)


def _host(array: Array) -> Any:
    """Show an array of NumPy to cuda-core as memory."""
    from cuda.core import Buffer

    return Buffer.from_handle(array.ctypes.data, array.nbytes, owner=array)


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
