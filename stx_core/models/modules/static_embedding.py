"""Static embeddings: a text is the mean of its tokens' rows in one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from stx_core.errors import ModelError
from stx_core.inference.exclusive import exclusive_tokenizer, lock_of
from stx_core.inference.tokens import Pair, Tokens, from_lists
from stx_core.models.folder import load_weights, reading, save_weights
from stx_core.models.modules.bags import collate_bags, texts_with_prompt
from stx_core.models.modules.module import Features, InputModule, LoadOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Encodings are Python objects of some kilobytes; this many at a time bounds their memory.
_TEXTS_AT_ONCE = 4096


class StaticEmbedding(InputModule):
    """Mean of token rows. No special tokens, no padding; an empty text is the zero vector.

    A truncation that is baked into the folder's ``tokenizer.json`` stays in force, because the
    reference keeps it too; there is no limit otherwise.

    Args:
        tokenizer: a fast tokenizer; its padding is switched off.
        embedding_weights: (V, D) float table, or None for random rows of `embedding_dim`.
        embedding_dim: D of a random table; not together with `embedding_weights`.
    """

    def __init__(
        self,
        tokenizer: "Tokenizer | PreTrainedTokenizerFast",
        embedding_weights: np.ndarray | torch.Tensor | None = None,
        embedding_dim: int | None = None,
    ) -> None:
        super().__init__()
        if (embedding_weights is None) == (embedding_dim is None):
            raise ValueError("give either embedding_weights or embedding_dim, and not both")
        self.tokenizer = _rust_tokenizer(tokenizer)
        self.tokenizer.no_padding()
        if embedding_weights is None:
            table = nn.EmbeddingBag(self.tokenizer.get_vocab_size(), int(embedding_dim or 0))
        else:
            rows = torch.as_tensor(embedding_weights)
            # Integer tables (model2vec's int8) become float32: means of integers would be cut.
            rows = rows if rows.is_floating_point() else rows.float()
            table = nn.EmbeddingBag.from_pretrained(rows, freeze=False)
        self.embedding = table

    @classmethod
    def from_folder(cls, folder: Path, options: LoadOptions) -> Self:
        """Load ``tokenizer.json`` and the table, spelt as either library spells it.

        Sentence Transformers: ``embedding.weight``. model2vec: ``embeddings``, with an optional
        ``mapping`` of token ids to rows and optional ``weights`` per token.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"{folder} has no tokenizer.json, which StaticEmbedding needs")
        weights = load_weights(folder, allow_pickle=options.allow_pickle)
        table = weights.get("embedding.weight")
        with reading(path, "the tokenizer, or its table of embeddings, cannot be used"):
            if table is None:
                table = _model2vec_table(weights, folder)
            module = cls(Tokenizer.from_file(str(path)), table)
            last = max(module.tokenizer.get_vocab().values(), default=-1)
            if not 0 <= last < len(module.embedding.weight):
                raise ModelError(
                    f"{path}: token ids go up to {last}, the table of embeddings has "
                    f"{len(module.embedding.weight)} rows"
                )
        return module

    @classmethod
    def from_model2vec(cls, model_id_or_path: str | Path) -> Self:
        """Load a model2vec folder, or one of the hub.

        Its own normalisation is a module of its own here.
        """
        return cls.load(model_id_or_path)

    def write_files(self, folder: Path) -> None:
        """Write the table and ``tokenizer.json``; there are no settings."""
        save_weights(folder, self.state_dict())
        self.tokenizer.save(str(folder / "tokenizer.json"))

    @property
    def max_seq_length(self) -> int | None:
        """Tokens per text at most, or None for no limit."""
        truncation = _rust_tokenizer(self.tokenizer).truncation
        return None if truncation is None else truncation["max_length"]

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        rust = _rust_tokenizer(self.tokenizer)
        with lock_of(rust):
            if value is None:
                rust.no_truncation()
            else:
                rust.enable_truncation(value)

    def get_embedding_dimension(self) -> int:
        """Width of the sentence embedding."""
        return self.embedding.embedding_dim

    def to_tokens(
        self, inputs: Sequence[str] | Sequence[Pair], *, prompt: str = "", task: str | None = None
    ) -> Tokens:
        """Ragged tokens of N texts, without special tokens."""
        texts = texts_with_prompt(inputs, prompt)
        ids: list[list[int]] = []
        truncated: list[bool] = []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            with exclusive_tokenizer(self.tokenizer) as rust:
                rust.no_padding()
                encodings = rust.encode_batch_fast(
                    texts[start : start + _TEXTS_AT_ONCE], add_special_tokens=False
                )
            for encoding in encodings:
                ids.append(encoding.ids)
                truncated.append(bool(encoding.overflowing))
        return from_lists(ids, truncated)

    collate = staticmethod(collate_bags)

    def forward(self, features: Features) -> Features:
        """Add ``sentence_embedding``, (B, D)."""
        features["sentence_embedding"] = self.embedding(features["input_ids"], features["offsets"])
        return features


def _rust_tokenizer(tokenizer: "Tokenizer | PreTrainedTokenizerFast") -> Tokenizer:
    rust = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if isinstance(rust, Tokenizer):
        return rust
    raise TypeError(
        f"StaticEmbedding needs a fast tokenizer (tokenizers.Tokenizer or PreTrainedTokenizerFast),"
        f" got {type(tokenizer).__name__}"
    )


def _model2vec_table(weights: dict[str, torch.Tensor], folder: Path) -> torch.Tensor:
    """One row per token id, (V, D), with mapping and token weights worked in."""
    if "embeddings" not in weights:
        raise ModelError(
            f"{folder}: expected a tensor 'embedding.weight' or 'embeddings', "
            f"the weights file has {sorted(weights)}"
        )
    table = weights["embeddings"]
    if "mapping" in weights:
        table = table[weights["mapping"].long()]
    if "weights" in weights:
        table = table.to(torch.promote_types(table.dtype, torch.float32))
        table = table * weights["weights"].to(table.dtype)[:, None]
    return table.contiguous()
