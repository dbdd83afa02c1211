"""Launch kernels on the current CUDA stream of a device."""

from __future__ import annotations

import ctypes
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

import torch

import lmc_fast._core as _core
from lmc_fast._cuda import nvrtc
from lmc_fast.errors import LmcWarning

MIN_CAPABILITY = (8, 0)
"""The kernels use asynchronous copies and 16x8x16 products; older devices take torch's path."""


class Launcher(Protocol):
    """What the planning code asks of a device."""

    @property
    def multiprocessors(self) -> int:
        """How many multiprocessors the device has."""

    def launch(
        self,
        kernel: str,
        grid: tuple[int, int, int],
        threads: int,
        shared_bytes: int,
        params: ctypes.Structure,
    ) -> None:
        """Queue one kernel; `params` is copied, and is the kernel's only parameter."""


def cuda_available() -> bool:
    """Whether a CUDA device that the kernels run on is there, with a torch that can use it.

    Returns
    -------
    bool
        False without a driver, with a torch built without CUDA, or where every device is older than
        compute capability 8.0. The package imports and runs on the CPU either way.
    """
    if _core.cuda_device_count() == 0 or not torch.cuda.is_available():
        return False
    devices = range(torch.cuda.device_count())
    return any(supports(torch.device("cuda", index)) for index in devices)


def supports(device: torch.device) -> bool:
    """Whether the kernels run on this device."""
    return (
        device.type == "cuda"
        and torch.version.cuda is not None
        and torch.cuda.get_device_capability(device) >= MIN_CAPABILITY
    )


@dataclass
class CudaLauncher:
    """Kernels of one source on one device; loaded once, launched on torch's current stream."""

    device: torch.device
    module: _core.CudaModule
    multiprocessors: int
    _kernels: dict[tuple[str, int], int] = field(default_factory=dict)

    def launch(
        self,
        kernel: str,
        grid: tuple[int, int, int],
        threads: int,
        shared_bytes: int,
        params: ctypes.Structure,
    ) -> None:
        """Queue one kernel on the device's current stream."""
        key = (kernel, shared_bytes)
        if key not in self._kernels:
            self._kernels[key] = self.module.kernel(kernel, shared_bytes)
        stream = torch.cuda.current_stream(self.device).cuda_stream
        self.module.launch(self._kernels[key], *grid, threads, shared_bytes, stream, bytes(params))


@cache
def launcher_or_none(device: torch.device, source: str) -> Launcher | None:
    """As `launcher_for`; None, with one warning, where torch's own operations have to do."""
    if not supports(device):
        return None
    try:
        return launcher_for(device, source)
    except RuntimeError as error:
        warnings.warn(f"{error}; torch's own operations are used instead", LmcWarning, stacklevel=4)
        return None


def launcher_for(device: torch.device, source: str) -> CudaLauncher:
    """The kernels of csrc/cuda/SOURCE.cu on a device, from the package or compiled now.

    Raises
    ------
    RuntimeError
        If the device is too old, or there is neither machine code that the driver takes nor an
        NVRTC library to compile with.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    return _load(index, source)


@cache
def _load(index: int, source: str) -> CudaLauncher:
    device = torch.device("cuda", index)
    if not supports(device):
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        raise RuntimeError(
            f"CUDA kernels: expected compute capability 8.0 or newer, got {capability} for "
            f"{device}: use the CPU"
        )
    properties = torch.cuda.get_device_properties(device)
    module = _load_module(index, source, torch.cuda.get_device_capability(device))
    return CudaLauncher(device, module, properties.multi_processor_count)


def _load_module(index: int, source: str, capability: tuple[int, int]) -> _core.CudaModule:
    folder = kernel_folder()
    shipped = folder / f"{source}.fatbin"
    if shipped.exists():
        # A driver older than the compiler refuses; the NVRTC that torch carries suits the driver.
        with suppress(RuntimeError):
            return _core.CudaModule(index, shipped.read_bytes())
    image = nvrtc.compile_kernels(folder, source, capability)
    return _core.CudaModule(index, image)


def kernel_folder() -> Path:
    """Where the installed kernels lie: beside the compiled core."""
    return Path(_core.__file__).parent / "kernels"
