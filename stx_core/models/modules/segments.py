"""Which tokens belong to which input, for features that are padded and for those that are packed.

B inputs, K tokens that count, N tokens with padding, D numbers per token.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from stx_core.inference.packing import Layout
from stx_core.models.modules.module import Features


@dataclass(frozen=True)
class Segments:
    """Tokens that count, input by input.

    Attributes:
        index: (K,) int64, their rows among all tokens, (N, D).
        owner: (K,) int64, ascending, the input of each.
        place: (K,) int64, of each in its input, from 0 at its first token.
        counts: (B,) int64, tokens of each input that count.
        first: (B,) int64, row of each input's first token, whether it counts or not.
        empty: (B,) bool, the input has no token at all; `first` is some row then.
    """

    index: torch.Tensor
    owner: torch.Tensor
    place: torch.Tensor
    counts: torch.Tensor
    first: torch.Tensor
    empty: torch.Tensor

    @property
    def starts(self) -> torch.Tensor:
        """(B,) int64, where each input starts in `index`."""
        return self.counts.cumsum(0) - self.counts


def segments(features: Features, skip: int = 0) -> Segments:
    """All real tokens, without the first `skip` of each input; without a mask all tokens."""
    if "layout" in features:
        layout: Layout = features["layout"]
        lengths = layout.lengths  # worked out on the CPU: nothing here waits for the GPU
        owner = np.repeat(np.arange(len(lengths)), lengths)
        index = np.arange(len(owner))
        place = index - layout.starts[owner]
        if skip:
            index, owner, place = (values[place >= skip] for values in (index, owner, place))
        counts = np.maximum(lengths - skip, 0)
        first = np.minimum(layout.starts[:-1], max(0, layout.size - 1))
        return Segments(*map(layout.tensor, (index, owner, place, counts, first, lengths == 0)))
    if "cu_seq_lens_q" in features:
        # As transformers' own packing has it: (B + 1,) where each input starts, and the end.
        ends = features["cu_seq_lens_q"]
        starts, lengths_B = ends[:-1].long(), ends.diff().long()
        places = torch.arange(int(lengths_B.max()) if len(lengths_B) else 0, device=ends.device)
        padded = _padded(places < lengths_B[:, None], skip)
        # The same tokens, without the places of the padding between them.
        index = starts[padded.owner] + padded.place
        return replace(padded, index=index, first=starts.clamp(max=max(0, int(ends[-1]) - 1)))
    mask, tokens = features.get("attention_mask"), features.get("token_embeddings")
    if tokens is not None and (mask is None or mask.shape[-1] != tokens.shape[1]):
        mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)  # all of them count
    return _padded(torch.as_tensor(mask).bool(), skip)


def _padded(real_BL: torch.Tensor, skip: int) -> Segments:
    n_inputs, longest = real_BL.shape
    first = longest * torch.arange(n_inputs, device=real_BL.device)
    if longest:
        first = first + real_BL.int().argmax(1)
    place_BL = real_BL.cumsum(1) - 1
    counted_BL = real_BL & (place_BL >= skip)
    index = counted_BL.flatten().nonzero().squeeze(1)
    owner = index // max(1, longest)
    empty = ~real_BL.any(1)
    return Segments(
        index, owner, place_BL[counted_BL], counts=counted_BL.sum(1), first=first, empty=empty
    )


def segment_max(tokens_KD: torch.Tensor, where: Segments, least: float) -> torch.Tensor:
    """(B, D), the maximum over each input's tokens and `least`."""
    max_BD = tokens_KD.new_full((len(where.counts), tokens_KD.shape[1]), least)
    return max_BD.scatter_reduce_(0, where.owner[:, None].expand_as(tokens_KD), tokens_KD, "amax")


def segment_sum(tokens_ND: torch.Tensor, where: Segments, weights_K: torch.Tensor) -> torch.Tensor:
    """(B, D), the weighted sum over each input's tokens, accumulated in float32 at least."""
    dtype = torch.promote_types(tokens_ND.dtype, torch.float32)
    return torch.nn.functional.embedding_bag(
        where.index,
        tokens_ND.to(dtype),
        where.starts,
        mode="sum",
        per_sample_weights=weights_K.to(dtype),
    )
