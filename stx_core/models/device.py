"""Device on which a model runs, and the progress bar that it shows."""

import logging
import os
from collections.abc import Callable, Sequence

import torch

logger = logging.getLogger(__name__)


def default_device() -> torch.device:
    """The accelerator of this process: CUDA, MPS, NPU, XPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if torch.backends.mps.is_available():
        return torch.device("mps")
    for kind in ("npu", "xpu"):
        backend = getattr(torch, kind, None)
        if backend is not None and backend.is_available():
            return torch.device(kind)
    return torch.device("cpu")


def one_device(
    device: "str | torch.device | Sequence[str | torch.device] | None",
    pool: object,
    chunk_size: object,
) -> str | torch.device | None:
    """The device of a call; a list of one is that one.

    Raises:
        ValueError: several devices or a pool of processes, are given, or the size of its chunks.
    """
    several = isinstance(device, list | tuple) and len(device) != 1
    if several or pool is not None or chunk_size is not None:
        raise ValueError(
            "encode and predict run in this process, on one device; for several devices or "
            "machines use the job `stx encode` or `stx rerank`; got "
            f"device={device!r}, pool={pool!r}, chunk_size={chunk_size!r}"
        )
    return device[0] if isinstance(device, list | tuple) else device  # type: ignore[return-value]


def as_device(device: str | torch.device) -> torch.device:
    """The device of that name, with its number.

    Raises:
        ValueError: there is none, or torch cannot use it here.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # of torch without CUDA: AssertionError
        raise ValueError(f"device {device!r} cannot be used: {error}") from error


def progress_bar(total: int, show: bool | None) -> Callable[[int], None] | None:
    """A function that counts finished inputs on a bar; None shows it with info messages."""
    if not (logger.isEnabledFor(logging.INFO) if show is None else show):
        return None
    from tqdm import tqdm  # type: ignore[import-untyped]

    bar = tqdm(total=total, desc="Inputs")

    def advance(n: int) -> None:
        bar.update(n)
        if bar.n >= total:
            bar.close()

    return advance
