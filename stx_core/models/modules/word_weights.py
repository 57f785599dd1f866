"""Word weights: scales token embeddings, with idf values for example."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
        self._table = WeightTable()
        weights = self._table.of(torch.zeros(0), vocab, word_weights, unknown=unknown_word_weight)
        self.register_buffer("token_weights", weights, persistent=False)

    def forward(self, features: Features) -> Features:
        """Scale ``token_embeddings`` (B, L, D); add ``token_weights_sum`` (B,)."""
        self.token_weights = self._table.of(
            self.token_weights, self.vocab, self.word_weights, unknown=self.unknown_word_weight
        )
        weights_BL = self.token_weights[features["input_ids"]] * features["attention_mask"]
        features["token_embeddings"] = features["token_embeddings"] * weights_BL.unsqueeze(-1)
        features["token_weights_sum"] = weights_BL.sum(1)
        return features


@dataclass(eq=False)
class WeightTable:
    """The weights of a vocabulary as a tensor, made anew when a setting has changed."""

    _made_of: tuple[object, ...] = field(default=(), init=False)

    def of(
        self,
        present: torch.Tensor,
        vocab: Sequence[str],
        word_weights: Mapping[str, float],
        unknown: float,
    ) -> torch.Tensor:
        """(V,), on the device and in the dtype of the present one, which is that unless changed."""
        settings = (list(vocab), dict(word_weights), unknown)
        if settings == self._made_of:
            return present
        self._made_of = settings
        weights = [
            float(word_weights.get(word, word_weights.get(word.lower(), unknown))) for word in vocab
        ]
        with torch.inference_mode(False):  # training may come after
            return torch.tensor(weights, dtype=present.dtype, device=present.device)
