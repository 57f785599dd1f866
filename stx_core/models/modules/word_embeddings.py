"""Word embeddings: one row per word (GloVe, word2vec), without context."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self, TypedDict

import numpy as np
import torch
from torch import nn

from stx_core.errors import ModelError
from stx_core.inference.tokens import Pair, Tokens, pad
from stx_core.models.alias import Alias
from stx_core.models.folder import JsonObject, load_weights, reading
from stx_core.models.modules.bags import texts_with_prompt
from stx_core.models.modules.module import Features, InputModule, LoadOptions
from stx_core.models.modules.word_tokenizers import WORD_TOKENIZERS, WordTokenizer, word_tokens

# Row 0 is the padding row: tables read from text files start with it.
_PAD_ID = 0


class WordEmbeddingSettings(TypedDict, total=False):
    """Settings that a folder may give."""

    tokenizer_class: str
    update_embeddings: bool
    max_seq_length: int | None


class WordEmbeddings(InputModule):
    """Looks words up in a table.

    Args:
        tokenizer: a word-level tokenizer whose ids are rows of the table.
        embedding_weights: (V, D) table.
        update_embeddings: whether training may change the table; saved, of no effect here.
        max_seq_length: words per text at most.
    """

    config_file_name: ClassVar[str] = "wordembedding_config.json"

    def __init__(
        self,
        tokenizer: WordTokenizer,
        embedding_weights: np.ndarray | torch.Tensor,
        update_embeddings: bool = False,
        max_seq_length: int | None = 1_000_000,
    ) -> None:
        super().__init__()
        table = torch.as_tensor(embedding_weights, dtype=torch.float32)
        self.tokenizer = tokenizer
        self.max_seq_length = max_seq_length
        self.emb_layer: nn.Embedding = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
            table, freeze=not update_embeddings
        )

    @classmethod
    def from_folder(cls, folder: Path, options: LoadOptions) -> Self:
        """Build from ``wordembedding_config.json``, the tokenizer's own config and the table.

        Raises:
            ModelError: a file does not fit, or the tokenizer's class is not in the closed table.
        """
        config = cls.checked_config(folder, WordEmbeddingSettings)
        name = config.pop("tokenizer_class", None)
        if name not in WORD_TOKENIZERS:
            raise ModelError(
                f"{folder}: tokenizer_class {name!r} is unknown, code from model folders is not "
                f"run; known are {sorted(WORD_TOKENIZERS)}"
            )
        tokenizer = WORD_TOKENIZERS[name].from_folder(folder)
        weights = load_weights(folder, allow_pickle=options.allow_pickle)
        if "emb_layer.weight" not in weights:
            raise ModelError(
                f"{folder}: expected a tensor 'emb_layer.weight', the file has {sorted(weights)}"
            )
        with reading(folder, "table and tokenizer do not fit together"):
            module = cls(tokenizer, weights["emb_layer.weight"], **config)
            if len(tokenizer.vocab) > len(module.emb_layer.weight):
                raise ModelError(
                    f"{folder}: {len(tokenizer.vocab)} words, but a table of "
                    f"{len(module.emb_layer.weight)} rows"
                )
        return module

    def get_config_dict(self) -> JsonObject:
        """Settings as they are saved."""
        return {
            "tokenizer_class": self.tokenizer.saved_as,
            "update_embeddings": self.update_embeddings,
            "max_seq_length": self.max_seq_length,
        }

    def write_files(self, folder: Path) -> None:
        """Write settings, table and tokenizer."""
        super().write_files(folder)
        self.tokenizer.save(folder)

    update_embeddings = Alias[bool]("emb_layer.weight.requires_grad", settable=True)
    """True where training may change the table."""

    def get_embedding_dimension(self) -> int:
        """Width of the token embeddings."""
        return self.emb_layer.embedding_dim

    def to_tokens(
        self, inputs: Sequence[str] | Sequence[Pair], *, prompt: str = "", task: str | None = None
    ) -> Tokens:
        """Ragged word ids of N texts; unknown words and stop words are gone."""
        return word_tokens(self.tokenizer, texts_with_prompt(inputs, prompt), self.max_seq_length)

    def collate(self, tokens: Tokens, rows: np.ndarray) -> Features:
        """``input_ids`` and ``attention_mask``, (B, L), padded right; L is at least 1."""
        # Texts without a known word still need one masked column: CNN and LSTM refuse none.
        padded = pad(tokens, rows, _PAD_ID, least=1)
        return {key: torch.from_numpy(value) for key, value in padded.items()}

    def forward(self, features: Features) -> Features:
        """Add ``token_embeddings``, (B, L, D)."""
        features["token_embeddings"] = self.emb_layer(features["input_ids"])
        return features
