"""Batches without padding: the tokens of all inputs in one row, and where each input is.

B inputs of a batch, T tokens of all of them, filled up to a round number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from stx_core.inference.tokens import Tokens

# Matrix kernels are set up for each number of tokens anew: few different numbers, few set-ups.
_STEPS = 16
_SMALLEST = 8


@dataclass(frozen=True)
class Layout:
    """Where each input is in a packed batch.

    Attributes:
        lengths: (B,) int64, tokens per input.
        size: T, with the tokens that only fill up, behind the last input.
        device: where tensors are made.
        prompt_length: leading tokens of each input that belong to the prompt.
    """

    lengths: np.ndarray
    size: int
    device: torch.device
    prompt_length: int = 0

    @cached_property
    def starts(self) -> np.ndarray:
        """(B + 1,) int64: input i has the tokens ``starts[i]:starts[i + 1]``."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)

    @cached_property
    def offsets(self) -> torch.Tensor:
        """`starts` as int32."""
        return self.tensor(self.starts.astype(np.int32))

    @cached_property
    def positions(self) -> torch.Tensor:
        """(T,) int64, place of each token in its input; 0 for tokens that fill up."""
        places = np.zeros(self.size, np.int64)
        used = int(self.starts[-1])
        places[:used] = np.arange(used) - np.repeat(self.starts[:-1], self.lengths)
        return self.tensor(places)

    @cached_property
    def first(self) -> torch.Tensor:
        """(B,) int64, first token of each input."""
        return self.tensor(self.starts[:-1])

    @cached_property
    def last(self) -> torch.Tensor:
        """(B,) int64, last token of each input."""
        return self.tensor(self.starts[1:] - 1)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest input."""
        return int(self.lengths.max(initial=1))

    @cached_property
    def groups(self) -> list[tuple[int, int, int]]:
        """Neighbours of equal length: first token, number of inputs, tokens of each."""
        changes = np.flatnonzero(np.diff(self.lengths)) + 1
        firsts = np.concatenate([[0], changes])
        counts = np.diff([*firsts, len(self.lengths)])
        return [
            (int(self.starts[first]), int(count), int(self.lengths[first]))
            for first, count in zip(firsts, counts, strict=True)
            if self.lengths[first]
        ]

    def tensor(self, values: np.ndarray) -> torch.Tensor:
        """Values on the device."""
        return to_device(torch.from_numpy(values), self.device)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on a device; a copy to a GPU goes on while the caller does."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Start to copy a tensor to the CPU; the function waits for it, and for nothing after it."""
    if not tensor.is_cuda:
        return tensor.cpu
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(tensor.device))

    def wait() -> torch.Tensor:
        copied.synchronize()
        return host

    return wait


def filled(n_tokens: int, token_budget: int) -> int:
    """The round number that a batch is filled up to: a sixteenth of the budget, or a power of 2."""
    step = max(_SMALLEST, token_budget // _STEPS)
    if n_tokens > step // 2:
        return -(-n_tokens // step) * step
    return max(_SMALLEST, 1 << (n_tokens - 1).bit_length())


def pack(
    tokens: Tokens, rows: np.ndarray, size: int, pad_id: int, device: torch.device
) -> tuple[dict[str, torch.Tensor], Layout]:
    """Put the chosen inputs one after the other.

    Args:
        tokens: of all inputs.
        rows: (B,) which of them, in this order.
        size: T, at least the tokens of these.
        pad_id: what to fill up with.
        device: where the layout's tensors will be.

    Returns:
        ``input_ids`` and, when the tokens have them, ``token_type_ids``, (1, T) int64 on the CPU;
        and the layout.
    """
    where = np.concatenate(
        [np.arange(tokens.offsets[row], tokens.offsets[row + 1]) for row in rows]
        or [np.empty(0, np.int64)]
    )
    columns = {"input_ids": (tokens.ids, pad_id)}
    if tokens.type_ids is not None:
        columns["token_type_ids"] = (tokens.type_ids, 0)
    packed = {}
    for name, (values, fill) in columns.items():
        row = np.full((1, size), fill, np.int64)
        row[0, : len(where)] = values[where]
        packed[name] = torch.from_numpy(row)
    return packed, Layout(tokens.lengths[rows], size, device, tokens.prompt_length)
