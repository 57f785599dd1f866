"""From what a batch gives to the containers that callers ask for."""

from typing import Literal

import numpy as np
import torch

from stx_core.models.modules.module import Features
from stx_core.quantization import quantize_embeddings

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]


def in_container(
    result: torch.Tensor, precision: Precision | None, *, to_numpy: bool, to_tensor: bool
) -> np.ndarray | torch.Tensor | list[torch.Tensor]:
    """Quantise, and put into what the caller asked for; no rows give shape (0,)."""
    result = result if len(result) else result.flatten()
    if precision not in (None, "float32") and len(result):
        quantised = quantize_embeddings(result, precision)
        result = torch.from_numpy(quantised).to(result.device)
    if to_numpy:
        # numpy has no bfloat16: that becomes float32; float16 stays.
        result = result.float() if result.dtype == torch.bfloat16 else result
        return result.cpu().numpy()
    return result if to_tensor else list(result)


def token_embeddings(features: Features) -> list[torch.Tensor]:
    """(L, D) per text, cut after its last token; padding on the left is not cut.

    (0, D) of a text without tokens.
    """
    real = features["attention_mask"].int()
    ends = (real.shape[1] - real.flip(1).argmax(1)) * real.amax(1)
    pairs = zip(features["token_embeddings"], ends.tolist(), strict=True)
    return [tokens[:end] for tokens, end in pairs]


def all_features(features: Features) -> list[Features]:
    """One dict per text; what is not per text is repeated."""
    n_rows = len(features["sentence_embedding"])
    per_text = {
        key
        for key, value in features.items()
        if isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == n_rows
    }
    return [
        {key: value[row] if key in per_text else value for key, value in features.items()}
        for row in range(n_rows)
    ]
