"""The loop that runs batches: memory that runs out halves the budget, nothing else is lost."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch

from stx_core.errors import InputError
from stx_core.inference.batches import make_batches

logger = logging.getLogger(__name__)

Output = TypeVar("Output")

# Tokens of one batch. CPU: of 2,048 to 16,384 the measured optimum, 4 % above 4,096 for a width of
# 384 and 1 % for 768; float32 loses beyond. GPU: enough to fill it.
TOKEN_BUDGET = {"cpu": 8192, "cuda": 65536}

# torch has no class of its own for the CPU's allocator, nor for the workspace of cuBLAS.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


def default_token_budget(device: torch.device) -> int:
    """Tokens of one batch for a device, padding counted."""
    return TOKEN_BUDGET.get(device.type, TOKEN_BUDGET["cpu"])


def run_batches(
    lengths: np.ndarray,
    forward: Callable[[np.ndarray], Output],
    *,
    token_budget: int,
    max_rows: int | None = None,
    packed: bool = False,
    in_flight: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[np.ndarray, Output | InputError]]:
    """Run `forward` on batches of like length, longest first.

    When memory runs out the budget becomes half of that batch for the rest of the call. An
    input that fails alone is given back with an InputError instead of an output.

    Args:
        lengths: (N,) tokens per input.
        forward: takes the row numbers of a batch, (B,) int64, returns its output.
        token_budget: tokens of one batch, padding counted.
        max_rows: inputs of one batch at most.
        packed: batches have no padding.
        in_flight: batches to start before the first of them is given back, so that the next batch
            is made while a GPU works on this one.
        progress: called with the number of inputs finished, after each batch.

    Yields:
        Row numbers and their output. Over the whole call each row comes exactly once.
    """
    pending = make_batches(lengths, token_budget, max_rows, packed=packed)[::-1]
    started: deque[tuple[np.ndarray, Output | InputError]] = deque()
    while pending or started:
        if not pending or len(started) >= in_flight:
            done = started.popleft()
            yield done
            if progress is not None:
                progress(len(done[0]))
            continue
        rows = pending.pop()
        try:
            started.append((rows, forward(rows)))
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Not in the except block: there the error would still hold the tensors of the batch.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        longest = max(1, int(lengths[rows].max()))
        if len(rows) > 1:
            size = int(lengths[rows].sum()) if packed else longest * len(rows)
            token_budget = max(1, min(token_budget, size) // 2)
            rest = np.concatenate([rows, *pending[::-1]])
            parts = make_batches(lengths[rest], token_budget, max_rows, packed=packed)
            pending = [rest[part] for part in parts][::-1]
            logger.warning("out of memory: token budget cut to %d", token_budget)
        else:
            failed = InputError(f"a text of {longest} tokens does not fit into memory")
            started.append((rows, failed))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of torch or numpy means that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(sign in str(error) for sign in _OUT_OF_MEMORY)
