"""The compiled attention kernel: built once with the machine's own compiler, never required."""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

from stx_core.inference.machine import cpu_class

logger = logging.getLogger(__name__)

HEAD_SIZES = (32, 64, 128)

_SOURCE = Path(__file__).with_name("attention.cpp")
_COMPILE = (
    "-std=c++17", "-O3", "-fPIC", "-fopenmp", "-mavx512f", "-mavx512bw", "-mavx512vl",
    "-mavx512dq", "-mavx512bf16", "-mfma",
)  # fmt: skip
_BUILD_TIMEOUT_S = 120

_POINTER, _INT64, _INT32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
_ARGUMENTS = (
    *(_POINTER, _INT64, _INT64) * 3, _POINTER, _POINTER, _INT32, _INT32, _INT32, _INT32,
    ctypes.c_float, _INT32, _INT32, _POINTER, _INT64, _INT64,
)  # fmt: skip


def has_kernel(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether `attend` can be called with such tensors on this machine."""
    fits = (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and query.shape[-1] in HEAD_SIZES
        and value.shape[-1] == query.shape[-1]
    )
    return fits and _library() is not None


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: torch.Tensor,
    scale: float,
    window: tuple[int, int],
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of each sequence to itself.

    Args:
        query: (T, H, D) bfloat16, tokens of all sequences one after the other.
        key: (T, G, D), where G divides H.
        value: (T, G, D).
        offsets: (B + 1,) int32; sequence i has tokens ``offsets[i]:offsets[i + 1]``.
        scale: of the scores.
        window: tokens that are seen before and after the own one; -1 for all.
        bias: (H, L, L), added to the scaled scores of sequences of at most L tokens; not copied
            where it is float32 and ``bias.mT`` is contiguous.

    Returns:
        (T, H, D); tokens behind the last sequence are not set.
    """
    library = _library()
    assert library is not None
    out = torch.empty(query.shape, dtype=query.dtype)
    inputs = [t if t.stride(-1) == 1 else t.contiguous() for t in (query, key, value)]
    places = [part for t in inputs for part in (t.data_ptr(), t.stride(0), t.stride(1))]
    by_key = None if bias is None else bias.mT.float().contiguous()
    steps = (None, 0, 0) if by_key is None else (by_key.data_ptr(), *by_key.stride()[:2])
    sizes = (len(offsets) - 1, query.shape[1], key.shape[1], query.shape[2])
    failed = library.stx_attention(
        *places, out.data_ptr(), offsets.data_ptr(), *sizes, scale, *window, *steps
    )
    if failed:
        raise AssertionError(f"no kernel for {query.shape[2]} numbers per head")
    return out


@cache
def _library() -> ctypes.CDLL | None:
    """The kernel, or None where the CPU or the compiler for it is missing."""
    if cpu_class() == "other":
        return None
    try:
        library = ctypes.CDLL(str(_built()))
    except (OSError, subprocess.SubprocessError) as error:
        logger.info("attention runs on torch's kernels, ours cannot be built: %s", error)
        return None
    if not library.stx_attention_supported():
        return None
    library.stx_attention.argtypes = _ARGUMENTS
    return library


def _built() -> Path:
    """The shared library of exactly this source, built when it is not in the cache.

    Raises:
        OSError: there is no compiler, or no folder to write to.
        SubprocessError: it fails.
    """
    source = _SOURCE.read_bytes()
    name = hashlib.sha256(source + " ".join(_COMPILE).encode()).hexdigest()[:16]
    folder = _cache_folder()
    path = folder / f"attention-{name}.so"
    if path.exists():
        return path
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise FileNotFoundError("no C++ compiler (c++, or the one that CXX names)")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        object_file, library = Path(scratch, "attention.o"), Path(scratch, "attention.so")
        _compile(compiler, *_COMPILE, "-c", str(_SOURCE), "-o", str(object_file))
        # Not linked with OpenMP: it finds the one that torch has loaded. A second one would bring
        # threads of its own, which wait busily while torch's compute.
        _compile(compiler, "-shared", str(object_file), "-o", str(library))
        library.rename(path)
    return path


def _compile(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S)


def _cache_folder() -> Path:
    """Of this user: what lies there is loaded as code.

    Raises:
        PermissionError: it belongs to, or can be written by, somebody else.
    """
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base, "stx", "native")
    if folder.exists():
        status = folder.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise PermissionError(f"{folder}: others could write to it")
    return folder
