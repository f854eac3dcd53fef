"""The energy that NVIDIA's GPUs have used, from the driver's own library: nvidia-smi has no word
for it. Nothing is set, and where there is no such library nothing is known.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

_OK = 0


def energies_j(open_library: Callable[[str], Any] = ctypes.CDLL) -> list[float | None]:
    """Joules of each GPU since its driver was loaded, in the driver's order.

    None for a GPU that does not count (before Volta); [] without an NVIDIA driver.
    """
    try:
        nvml = open_library("libnvidia-ml.so.1")
        if nvml.nvmlInit_v2() != _OK:
            return []
    except (OSError, AttributeError):  # no driver, or one too old for these names
        return []
    try:
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != _OK:
            return []
        return [_of(nvml, index) for index in range(count.value)]
    except AttributeError:
        return []
    finally:
        nvml.nvmlShutdown()


def keep_open(open_library: Callable[[str], Any] = ctypes.CDLL) -> Callable[[], None]:
    """Open the driver's library now, so that ``energies_j`` need not; gives what lets it go.

    NVML counts how often it was opened. Without it nothing is kept, and that is no fault.
    """
    try:
        nvml = open_library("libnvidia-ml.so.1")
        if nvml.nvmlInit_v2() == _OK:
            return lambda: _shut(nvml)
    except (OSError, AttributeError):
        pass
    return lambda: None


def _shut(nvml: Any) -> None:
    nvml.nvmlShutdown()


def _of(nvml: Any, index: int) -> float | None:
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) != _OK:
        return None
    if nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)) != _OK:
        return None
    return millijoules.value / 1e3
