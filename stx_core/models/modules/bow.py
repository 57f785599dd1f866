"""Bag of words: a text is the weights of its words, one dimension per word of the vocabulary."""

from collections.abc import Sequence
from typing import ClassVar

import torch

from stx_core.inference.tokens import Pair, Tokens
from stx_core.models.modules.bags import bag_rows, collate_bags, texts_with_prompt
from stx_core.models.modules.module import Features, InputModule
from stx_core.models.modules.word_tokenizers import WordTokenizer, word_tokens
from stx_core.models.modules.word_weights import WeightTable


class BoW(InputModule):
    """Sums (or sets) the weight of each word of a text.

    Args:
        vocab: words, one dimension each; repeated words are dropped.
        word_weights: weight by word; a word that is not there is looked up in lower case.
        unknown_word_weight: weight of the words without one.
        cumulative_term_frequency: a word that comes twice counts twice.
    """

    config_keys: ClassVar[tuple[str, ...]] = (
        "vocab",
        "word_weights",
        "unknown_word_weight",
        "cumulative_term_frequency",
    )

    weights: torch.Tensor

    def __init__(
        self,
        vocab: list[str],
        word_weights: dict[str, float] | None = None,
        unknown_word_weight: float = 1,
        cumulative_term_frequency: bool = True,
    ) -> None:
        super().__init__()
        self.word_weights = word_weights or {}
        self.unknown_word_weight = unknown_word_weight
        self.cumulative_term_frequency = cumulative_term_frequency
        self.max_seq_length: int | None = None
        self.tokenizer = WordTokenizer(list(dict.fromkeys(vocab)), stop_words=())
        self._table = WeightTable()
        weights = self._table.of(
            torch.zeros(0), self.vocab, self.word_weights, unknown=unknown_word_weight
        )
        self.register_buffer("weights", weights, persistent=False)

    @property
    def vocab(self) -> list[str]:
        """Words, one dimension each."""
        return self.tokenizer.vocab

    @vocab.setter
    def vocab(self, value: list[str]) -> None:
        self.tokenizer.vocab = list(dict.fromkeys(value))

    def get_embedding_dimension(self) -> int:
        """Width of the sentence embedding: the size of the vocabulary."""
        return len(self.vocab)

    def to_tokens(
        self, inputs: Sequence[str] | Sequence[Pair], *, prompt: str = "", task: str | None = None
    ) -> Tokens:
        """Ragged word ids of N texts; unknown words are gone."""
        return word_tokens(self.tokenizer, texts_with_prompt(inputs, prompt), self.max_seq_length)

    collate = staticmethod(collate_bags)

    def forward(self, features: Features) -> Features:
        """Add ``sentence_embedding``, (B, V)."""
        ids, offsets = features["input_ids"], features["offsets"]
        self.weights = self._table.of(
            self.weights, self.vocab, self.word_weights, unknown=self.unknown_word_weight
        )
        bags_BV = self.weights.new_zeros(len(offsets), len(self.vocab))
        features["sentence_embedding"] = bags_BV.index_put_(
            (bag_rows(ids, offsets), ids),
            self.weights[ids],
            accumulate=self.cumulative_term_frequency,
        )
        return features
