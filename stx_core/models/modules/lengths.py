"""Limits of backbones and tokenizers: how many tokens an input may have."""

import logging
from typing import Any

from torch import nn

logger = logging.getLogger(__name__)


def position_limit(model: nn.Module) -> int | None:
    """Rows of a learned position table that inputs can use; None: positions are computed.

    RoBERTa and its relatives count from padding_idx + 1: 514 rows are 512 positions.
    """
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if table is None:  # CANINE's
            table = getattr(module, "char_position_embeddings", None)
        if isinstance(table, nn.Embedding):
            padding_id = getattr(module, "padding_idx", None)
            offset = padding_id + 1 if isinstance(padding_id, int) else 0
            return table.num_embeddings - offset
    return None


def length_limit(
    tokenizer: Any,  # noqa: ANN401  (transformers is untyped)
    config: Any,  # noqa: ANN401
    positions: int | None,
    *,
    given: int | None,
) -> float:
    """Tokens per input at most, special tokens counted.

    Args:
        tokenizer: has a limit of its own, which may be too large to be one.
        config: of the backbone.
        positions: see `position_limit`.
        given: takes the place of what tokenizer and config say; None for none.

    Raises:
        ValueError: it leaves no room for an input.
    """
    limits = [] if given is None else [given]
    if given is None:
        limits.append(tokenizer.model_max_length)
        declared = getattr(config, "max_position_embeddings", -1)
        limits += [declared] if declared != -1 else []  # XLNet: -1 is "any length"
    if given is not None and positions is not None and given > positions:
        logger.warning("max_seq_length %d is cut to the %d positions there are", given, positions)
    if positions is not None:
        limits.append(positions)
    limit: float = min(limits)
    check_length(limit, tokenizer)
    return limit


def check_length(value: float, tokenizer: Any) -> None:  # noqa: ANN401
    """Check that inputs can be cut to so many tokens: to their special tokens at the least.

    Raises:
        ValueError: not even these fit.
    """
    special = tokenizer.num_special_tokens_to_add(pair=False)
    if not value >= max(special, 1):
        raise ValueError(
            f"max_seq_length {value} leaves no room beside {special} special tokens of an input"
        )
