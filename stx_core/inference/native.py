"""Kernels for CPUs with AVX-512 BF16: built once with the machine's compiler, never required.

Where they are missing, torch's are used. All take bfloat16 and sum in float32.

    python -m stx_core.inference.native

builds them beside their sources, for images that are to run without a compiler.
"""

import ctypes
import grp
import hashlib
import logging
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

from stx_core.inference.machine import cpu_class

logger = logging.getLogger(__name__)

HEAD_SIZES = (32, 64, 128)

_SOURCES = Path(__file__).with_name("kernels")
_COMPILE = (
    "-std=c++17", "-O3", "-fPIC", "-fopenmp", "-mavx512f", "-mavx512bw", "-mavx512vl",
    "-mavx512dq", "-mavx512bf16", "-mfma",
)  # fmt: skip
_BUILD_TIMEOUT_S = 120

_POINTER, _INT64, _INT32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
_ARGUMENTS = {
    "stx_attention": (
        *(_POINTER, _INT64, _INT64) * 3, _POINTER, _POINTER, _INT32, _INT32, _INT32, _INT32,
        ctypes.c_float, _INT32, _INT32, _POINTER, _INT64, _INT64,
    ),
    "stx_linear": (*(_POINTER,) * 4, _INT64, _INT64, _INT64, _INT32),
    "stx_linear_highest": (*(_POINTER,) * 5, _INT64, _INT64, _INT64),
    "stx_add_norm": (*(_POINTER,) * 6, _INT64, _INT64, ctypes.c_float),
}  # fmt: skip

_PANEL = 64  # outputs that kernels/linear.cpp takes together


def has_linear(weight: torch.Tensor) -> bool:
    """Whether `linear` is there, and the fastest, for a weight (N, K) on this machine.

    With AMX oneDNN's is, and for fewer outputs than fill a part of a panel.
    """
    outputs, inputs = weight.shape
    fits = weight.dtype == torch.bfloat16 and inputs % 2 == 0 and outputs >= _PANEL // 2
    return fits and cpu_class() == "avx512-bf16" and _library() is not None


def order_weight(weight: torch.Tensor) -> torch.Tensor:
    """A weight (N, K), as `linear` takes it: (panels, K / 2, 64, 2), filled up with zeros."""
    outputs, inputs = weight.shape
    panels = -(-outputs // _PANEL)
    padded = torch.nn.functional.pad(weight, (0, 0, 0, panels * _PANEL - outputs)).contiguous()
    # Pairs as one number each: a third of the time of moving them one by one.
    pairs = padded.view(torch.int32).view(panels, _PANEL, inputs // 2).transpose(1, 2)
    return pairs.contiguous().view(torch.bfloat16).view(panels, inputs // 2, _PANEL, 2)


def linear(
    x: torch.Tensor, ordered: torch.Tensor, outputs: int, bias: torch.Tensor | None, *, gelu: bool
) -> torch.Tensor:
    """Linear layer: x (..., K), a weight from `order_weight`, bias (N,) to (..., N).

    Each output is the same whatever rows are beside it. `gelu`: of what comes out.
    """
    library = _library()
    assert library is not None
    inputs = x.shape[-1]
    rows = x.reshape(-1, inputs).contiguous()
    out = x.new_empty((len(rows), outputs))
    more = None if bias is None else bias.to(x.dtype).contiguous()
    places = (rows.data_ptr(), ordered.data_ptr(), None if more is None else more.data_ptr())
    library.stx_linear(*places, out.data_ptr(), len(rows), inputs, outputs, gelu)
    return out.view(*x.shape[:-1], outputs)


def linear_highest(
    x: torch.Tensor,
    ordered: torch.Tensor,
    outputs: int,
    bias: torch.Tensor | None,
    offsets: torch.Tensor,
) -> torch.Tensor:
    """The highest of each output of a linear layer over the rows of a segment.

    Args:
        x: (T, K).
        ordered: from `order_weight`.
        outputs: N.
        bias: (N,).
        offsets: (B + 1,) int64; segment i has the rows ``offsets[i]:offsets[i + 1]``.

    Returns:
        (B, N); -inf for a segment without rows.
    """
    library = _library()
    assert library is not None
    x, offsets = x.contiguous(), offsets.contiguous()
    out = x.new_empty((len(offsets) - 1, outputs))
    more = None if bias is None else bias.to(x.dtype).contiguous()
    places = (x.data_ptr(), ordered.data_ptr(), None if more is None else more.data_ptr())
    library.stx_linear_highest(
        *places, out.data_ptr(), offsets.data_ptr(), len(out), x.shape[1], outputs
    )
    return out


def has_sum(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether `add_norm` could be called with these on this machine, and some weight and bias."""
    usable = _adds(one) and _adds(other)
    fits = one.shape == other.shape and one.ndim > 0 and one.shape[-1] % 16 == 0
    return fits and usable and _library() is not None


def has_add_norm(
    one: torch.Tensor, other: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> bool:
    """Whether `add_norm` can be called with these on this machine."""
    fits = one.shape[-1:] == weight.shape == bias.shape
    return fits and _adds(weight) and _adds(bias) and has_sum(one, other)


def _adds(tensor: torch.Tensor) -> bool:
    usable = tensor.dtype == torch.bfloat16 and tensor.device.type == "cpu"
    return usable and tensor.layout == torch.strided and tensor.is_contiguous()


def add_norm(
    one: torch.Tensor,
    other: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of two tensors (..., N), and its LayerNorm with weight and bias (N,)."""
    library = _library()
    assert library is not None
    outputs = torch.empty_like(one), torch.empty_like(one)
    places = [tensor.data_ptr() for tensor in (one, other, weight, bias, *outputs)]
    library.stx_add_norm(*places, one.numel() // len(weight), len(weight), epsilon)
    return outputs


def has_attention(query: torch.Tensor, value: torch.Tensor) -> bool:
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
    """The kernels, or None where the CPU or the compiler for them is missing."""
    if cpu_class() == "other":
        return None
    try:
        library = ctypes.CDLL(str(_built()))
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning(
            "bfloat16 runs at half of its speed, on torch's kernels: ours cannot be built (%s); "
            "install a C++ compiler, or build them for the image: python -m %s",
            _reason(error),
            __name__,
        )
        return None
    for name, arguments in _ARGUMENTS.items():
        getattr(library, name).argtypes = arguments
    return library


def _built() -> Path:
    """The shared library of exactly these sources, built when there is none.

    Raises:
        OSError: there is no compiler, or no folder to write to.
        SubprocessError: it fails.
    """
    shipped = _SOURCES / _file_name()
    return shipped if shipped.exists() else build(_cache_folder())


def _file_name() -> str:
    texts = [path.read_bytes() for path in sorted(_SOURCES.glob("*.[ch]*"))]
    return f"{hashlib.sha256(b''.join(texts) + ' '.join(_COMPILE).encode()).hexdigest()[:16]}.so"


def build(folder: Path) -> Path:
    """The shared library in a folder, built when it is not there; raises as `_built`."""
    path = folder / _file_name()
    if path.exists():
        if path.stat().st_uid not in (0, os.getuid()):
            raise PermissionError(f"{path}: belongs to somebody else")
        return path
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise FileNotFoundError("no C++ compiler (c++, or the one that CXX names)")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, ThreadPoolExecutor() as pool:
        steps = []
        for source in _SOURCES.glob("*.cpp"):
            target = f"{scratch}/{source.stem}.o"
            command = (compiler, *_COMPILE, "-c", str(source), "-o", target)
            steps.append((target, pool.submit(_compile, *command)))
        for _, step in steps:
            step.result()
        # Not linked with OpenMP: it finds the one that torch has loaded. A second one would bring
        # threads of its own, which wait busily while torch's compute.
        library = Path(scratch, "kernels.so")
        _compile(compiler, "-shared", *(target for target, _ in steps), "-o", str(library))
        library.rename(path)
    return path


def _compile(*command: str) -> None:
    # The compiler looks for headers in its own folder where CPATH has an empty entry.
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        timeout=_BUILD_TIMEOUT_S,
        cwd=_SOURCES,
    )


def _reason(error: Exception) -> str:
    said = str(getattr(error, "stderr", None) or error).strip()
    return next((line for line in said.splitlines() if "error" in line), said)


def _cache_folder() -> Path:
    """Of this user: what lies there is loaded as code.

    Raises:
        PermissionError: it, or a folder above it, belongs to somebody else or can be written by
            others, who could put another one in its place.
    """
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(os.path.abspath(base), "stx", "native")
    if folder.exists():
        status = folder.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise PermissionError(f"{folder}: others could write to it")
    # Of a link both ways count: to where it stands, and to where it leads.
    for above in {*folder.parents, *folder.resolve().parents}:
        if above.exists() and _is_open_to_others(above.stat()):
            raise PermissionError(
                f"{folder}: others could replace it, as they may write to {above}"
            )
    return folder


def _is_open_to_others(status: os.stat_result) -> bool:
    """Whether somebody but this user and root can replace what is in a folder."""
    if status.st_uid not in (0, os.getuid()):
        return True
    if status.st_mode & stat.S_ISVTX:
        return False  # as /tmp is: everybody may add, nobody may replace what is another's
    own_group = status.st_gid in (0, _private_group())
    return bool(status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and not own_group))


def _private_group() -> int | None:
    """The group of this user that has the user's name: distributions give each user one."""
    try:
        user = pwd.getpwuid(os.getuid())
        return user.pw_gid if grp.getgrgid(user.pw_gid).gr_name == user.pw_name else None
    except KeyError:
        return None


if __name__ == "__main__":
    build(_SOURCES)
