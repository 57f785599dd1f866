"""What the processor can do, and how a process is set up to use it."""

import contextlib
import ctypes
from functools import cache
from typing import Literal

import torch

CpuClass = Literal["amx", "avx512-bf16", "other"]
"""Intel's matrix tiles (which also have AVX-512 BF16), AVX-512 BF16 alone, or neither."""

# glibc's names of what mallopt sets, and the largest threshold that it takes.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LARGEST_THRESHOLD = 32 << 20
_NEVER_TRIM = (1 << 31) - 1


@cache
def cpu_class() -> CpuClass:
    """The class of this machine's CPU, by the units it has for bfloat16."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.12
    if capabilities.get("amx_bf16"):
        return "amx"
    return "avx512-bf16" if capabilities.get("avx512_bf16") else "other"


def has_bf16_units(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and cpu_class() != "other"


def auto_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware has units for it, else float32."""
    return torch.bfloat16 if has_bf16_units(device) else torch.float32


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
