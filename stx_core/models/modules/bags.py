"""Bags of words: token ids without order, flat, so that no padding is computed.

T tokens of the batch, B inputs
input_ids   (T,) int64, the ids of input 0, then of input 1, ...
offsets     (B,) int64, where each input starts in input_ids
"""

from collections.abc import Sequence

import numpy as np
import torch

from stx_core.errors import InputError
from stx_core.inference.tokens import Pair, Tokens
from stx_core.models.modules.module import Features


def texts_with_prompt(inputs: Sequence[str] | Sequence[Pair], prompt: str) -> list[str]:
    """Put the prompt before each text, without a separator.

    Raises:
        InputError: an input is not a text; such modules read no pairs.
    """
    texts = []
    for row, text in enumerate(inputs):
        if not isinstance(text, str):
            raise InputError(f"input {row} is {type(text).__name__}, this model reads str only")
        texts.append(prompt + text)
    return texts


def collate_bags(tokens: Tokens, rows: np.ndarray) -> Features:
    """Features ``input_ids`` and ``offsets`` of the chosen inputs, in the order of `rows`."""
    lengths = tokens.lengths[rows]
    starts = np.cumsum(lengths) - lengths
    where = np.arange(lengths.sum()) + np.repeat(tokens.offsets[rows] - starts, lengths)
    return {
        "input_ids": torch.from_numpy(tokens.ids[where].astype(np.int64)),
        "offsets": torch.from_numpy(starts.astype(np.int64)),
    }


def bag_rows(input_ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Row of each flat token, (T,) int64."""
    ends = torch.cat([offsets[1:], offsets.new_tensor([len(input_ids)])])
    rows = torch.arange(len(offsets), device=offsets.device)
    return rows.repeat_interleave(ends - offsets, output_size=len(input_ids))
