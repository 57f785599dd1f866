"""Abilities of the processor, and the set-up of a process to use them: asked here only."""

import contextlib
import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

CpuClass = Literal["amx", "avx512-bf16", "other"]
"""Intel's matrix tiles (which also have AVX-512 BF16), AVX-512 BF16 alone, or neither."""

# glibc's names of what mallopt sets, and the largest threshold that it takes.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LARGEST_THRESHOLD = 32 << 20
_CPU_INFO = Path("/proc/cpuinfo")

_NEVER_TRIM = (1 << 31) - 1


@cache
def cpu_class() -> CpuClass:
    """The class of this machine's CPU, by the units it has for bfloat16."""
    # Not from torch: who plans a run does not load it.
    flags = _cpu_info().get("flags", "").split()
    if "amx_bf16" in flags:
        return "amx"
    return "avx512-bf16" if "avx512_bf16" in flags else "other"


def cpu_name() -> str:
    """Name of the CPU's model; ``CPU`` where it cannot be known."""
    return _cpu_info().get("model name", "CPU")


def _cpu_info() -> Mapping[str, str]:
    """Fields of the first core, as Linux names them; none where it cannot be known."""
    try:
        first = _CPU_INFO.read_text().split("\n\n")[0]
    except OSError:
        return {}
    fields = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in fields}


def auto_dtype(device: "torch.device") -> str:
    """``bfloat16`` where a device has units for it, else ``float32``."""
    import torch

    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = device.type == "cpu" and cpu_class() != "other"
    return "bfloat16" if fast else "float32"


@cache
def keep_pages() -> None:
    """Let this process keep the memory that it frees, for its next large tensor.

    By default glibc gives large blocks back to the kernel at once, and to get zeroed pages again
    costs five times the memory's bandwidth: a fifth of the whole forward pass of a small model.
    Does nothing under another C library.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, _NEVER_TRIM)
        mallopt(_TOP_PAD, _LARGEST_THRESHOLD)
