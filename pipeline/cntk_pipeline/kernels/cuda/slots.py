"""A launch under way: a stream of the device, and memory on both sides that nothing else uses until it is waited for.

A copy goes on beside the host's work, and beside another launch, only from and to pinned memory. So arrays pass through
such memory, which is kept: to pin more takes the driver milliseconds.
"""

import ctypes
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from cntk_pipeline.kernels.program import Array


@dataclass(frozen=True)
class _Memory:
    """So many bytes on the device and, pinned, on the host: buffers of cuda-core."""

    device: Any
    host: Any
    size_bytes: int

    def host_array(self, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """Show the beginning of the pinned memory as an array."""
        size = int(np.prod(shape)) * dtype.itemsize
        found = (ctypes.c_byte * size).from_address(int(self.host.handle))
        return np.frombuffer(memoryview(found), dtype).reshape(shape)


class Slot:
    """What one launch at a time has to itself.

    Parameters
    ----------
    device : cuda.core.Device
        The current one of the thread.

    Attributes
    ----------
    stream : cuda.core.Stream
        Carries out copies and launches in their order.
    """

    def __init__(self, device: Any) -> None:
        self._device = device
        self._memory: dict[str, _Memory] = {}
        self._sent: dict[str, weakref.ref[Array]] = {}
        self.stream = device.create_stream()

    def send(self, name: str, array: Array) -> Any:
        """Begin to copy an array to the device, unless it is the very one that was sent under this name before.

        Parameters
        ----------
        name : str
            Of the argument that it is.
        array : array
            Is not written after it was sent once.

        Returns
        -------
        cuda.core.Buffer
            Of at least its size.
        """
        sent = self._sent.get(name)
        if sent is None or sent() is not array:
            memory = self._reserve(name, array.nbytes)
            if array.nbytes:
                memory.host_array(array.shape, array.dtype)[...] = array
                _part(memory.device, array.nbytes).copy_from(_part(memory.host, array.nbytes), stream=self.stream)
            self._sent[name] = weakref.ref(array)
        return self._memory[name].device

    def reserve(self, name: str, size_bytes: int) -> Any:
        """Return memory of the device for what a launch writes."""
        return self._reserve(name, size_bytes).device

    def fetch(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """Begin to copy what a launch writes to the host; the array is read once the stream has come so far."""
        memory, size = self._memory[name], int(np.prod(shape)) * dtype.itemsize
        _part(memory.host, size).copy_from(_part(memory.device, size), stream=self.stream)
        return memory.host_array(shape, dtype)

    def _reserve(self, name: str, size_bytes: int) -> _Memory:
        """Return memory of at least so many bytes; it grows only, and only while nothing is under way."""
        from cuda.core import LegacyPinnedMemoryResource

        known = self._memory.get(name)
        if known is None or known.size_bytes < size_bytes:
            if known is not None:  # first, or both would be there at once
                del self._memory[name]
                known.device.close(self.stream)
                known.host.close()
            size = max(size_bytes, 16)
            device = self._device.allocate(size, stream=self.stream)
            self._memory[name] = _Memory(device, LegacyPinnedMemoryResource().allocate(size), size)
        return self._memory[name]


def _part(buffer: Any, size_bytes: int) -> Any:
    """Show the beginning of a buffer: cuda-core copies between buffers of one size alone."""
    from cuda.core import Buffer

    return Buffer.from_handle(int(buffer.handle), size_bytes, owner=buffer)
