"""Word weights: scales token embeddings, with idf values for example."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from stx_core.models.modules.module import Features, Module


class WordWeights(Module):
    """Multiplies each token embedding with the weight of its word.

    The weights are settings, not a tensor file: saved folders may hold one, which is not read.

    Args:
        vocab: words in order of their ids.
        word_weights: weight by word; a word that is not there is looked up in lower case.
        unknown_word_weight: weight of all other words.
    """

    config_keys: ClassVar[tuple[str, ...]] = ("vocab", "word_weights", "unknown_word_weight")

    token_weights: torch.Tensor

    def __init__(
        self,
        vocab: list[str],
        word_weights: dict[str, float],
        unknown_word_weight: float = 1,
    ) -> None:
        super().__init__()
        self.vocab = vocab
        self.word_weights = word_weights
        self.unknown_word_weight = unknown_word_weight
        weights = torch.tensor(weights_of(vocab, word_weights, unknown_word_weight))
        self.register_buffer("token_weights", weights, persistent=False)

    def forward(self, features: Features) -> Features:
        """Scale ``token_embeddings`` (B, L, D); add ``token_weights_sum`` (B,)."""
        weights_BL = self.token_weights[features["input_ids"]] * features["attention_mask"]
        features["token_embeddings"] = features["token_embeddings"] * weights_BL.unsqueeze(-1)
        features["token_weights_sum"] = weights_BL.sum(1)
        return features


def weights_of(
    vocab: Sequence[str], word_weights: Mapping[str, float], unknown: float
) -> list[float]:
    """Weight of each word of a vocabulary: as spelt, else in lower case, else `unknown`."""
    return [
        float(word_weights.get(word, word_weights.get(word.lower(), unknown))) for word in vocab
    ]
