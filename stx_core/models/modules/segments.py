"""Which tokens belong to which input, for features that are padded and for those that are packed.

B inputs, K tokens that count, N tokens with padding, D numbers per token.
"""

from dataclasses import dataclass

import torch

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
    """

    index: torch.Tensor
    owner: torch.Tensor
    place: torch.Tensor
    counts: torch.Tensor
    first: torch.Tensor

    @property
    def starts(self) -> torch.Tensor:
        """(B,) int64, where each input starts in `index`."""
        return self.counts.cumsum(0) - self.counts


def segments(features: Features, skip: int = 0) -> Segments:
    """All real tokens, without the first `skip` of each input."""
    index, owner, place, first = _packed(features) if "layout" in features else _padded(features)
    if skip:
        index, owner, place = (values[place >= skip] for values in (index, owner, place))
    return Segments(index, owner, place, torch.bincount(owner, minlength=len(first)), first)


def _packed(features: Features) -> tuple[torch.Tensor, ...]:
    layout = features["layout"]
    place = layout.positions[: int(layout.starts[-1])]
    index = torch.arange(len(place), device=place.device)
    owner = torch.bucketize(index, layout.offsets[1:], right=True)
    return index, owner, place, layout.first


def _padded(features: Features) -> tuple[torch.Tensor, ...]:
    real_BL = features["attention_mask"].bool()
    n_inputs, longest = real_BL.shape
    first = longest * torch.arange(n_inputs, device=real_BL.device)
    if longest:
        first = first + real_BL.int().argmax(1)
    index = real_BL.flatten().nonzero().squeeze(1)
    place = (real_BL.cumsum(1) - 1)[real_BL]
    return index, index // max(1, longest), place, first


def flat(tokens: torch.Tensor) -> torch.Tensor:
    """Features of tokens, padded (B, L, D) or packed (T, D), as (N, D)."""
    return tokens.reshape(-1, tokens.shape[-1])


def highest(tokens_KD: torch.Tensor, where: Segments, least: float) -> torch.Tensor:
    """(B, D), the maximum over each input's tokens and `least`."""
    found = tokens_KD.new_full((len(where.counts), tokens_KD.shape[1]), least)
    return found.scatter_reduce_(0, where.owner[:, None].expand_as(tokens_KD), tokens_KD, "amax")


def total(tokens_ND: torch.Tensor, where: Segments, weights_K: torch.Tensor) -> torch.Tensor:
    """(B, D), the weighted sum over each input's tokens, accumulated in float32 at least."""
    dtype = torch.promote_types(tokens_ND.dtype, torch.float32)
    return torch.nn.functional.embedding_bag(
        where.index,
        tokens_ND.to(dtype),
        where.starts,
        mode="sum",
        per_sample_weights=weights_K.to(dtype),
    )
