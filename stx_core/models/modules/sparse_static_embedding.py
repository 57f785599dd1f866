"""Inference-free sparse embeddings: each token that occurs has a fixed weight."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypedDict

import torch
from torch import nn

from stx_core.errors import ModelError
from stx_core.inference.exclusive import exclusive_tokenizer
from stx_core.inference.tokens import UNLIMITED, Pair, Tokens, from_lists
from stx_core.models.folder import inside, load_weights, read_json, reading
from stx_core.models.modules.bags import bag_rows, collate_bags, texts_with_prompt
from stx_core.models.modules.module import Features, InputModule, LoadOptions


class SparseStaticSettings(TypedDict, total=False):
    """Settings that a folder may give."""

    frozen: bool
    path: str | None


class SparseStaticEmbedding(InputModule):
    """One weight per vocabulary entry, idf for example; how often a token occurs is ignored.

    Args:
        tokenizer: a transformers tokenizer. Special tokens are not added.
        weight: (V,) float, ones by default.
        frozen: whether training leaves the weights alone; saved.
    """

    config_keys: ClassVar[tuple[str, ...]] = ("frozen",)

    def __init__(
        self,
        tokenizer: Any,  # noqa: ANN401  (transformers has no common typed tokenizer interface)
        weight: torch.Tensor | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        weight = torch.ones(len(tokenizer.get_vocab())) if weight is None else weight
        self.weight = nn.Parameter(weight, requires_grad=not frozen)

    @property
    def frozen(self) -> bool:
        """True where training leaves the weights alone."""
        return not self.weight.requires_grad

    @frozen.setter
    def frozen(self, value: bool) -> None:
        self.weight.requires_grad = not value

    @property
    def max_seq_length(self) -> int | None:
        """Tokens per text at most, or None for no limit; the tokenizer keeps and saves it."""
        limit = self.tokenizer.model_max_length
        return None if limit is None or limit >= UNLIMITED else int(limit)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        self.tokenizer.model_max_length = UNLIMITED if value is None else value

    @classmethod
    def from_folder(cls, folder: Path, options: LoadOptions) -> Self:
        """Build from settings, tokenizer and weights (or the JSON table that ``path`` names)."""
        from stx_core.models.modules.backbone import (
            load_tokenizer,  # transformers, which take seconds
        )

        config = cls.checked_config(folder, SparseStaticSettings)
        tokenizer = load_tokenizer(folder, options)
        table = config.pop("path", None)
        if table is not None:
            path = inside(folder, table, options.root)
            with reading(path, "this is no table of token weights"):
                return cls.from_json(path, tokenizer, **config)
        weights = load_weights(folder, allow_pickle=options.allow_pickle)
        if set(weights) != {"weight"}:
            raise ModelError(f"{folder}: expected one tensor 'weight', found {sorted(weights)}")
        if weights["weight"].shape != (len(tokenizer.get_vocab()),):
            raise ModelError(
                f"{folder}: weights of shape {tuple(weights['weight'].shape)} do not fit a "
                f"vocabulary of {len(tokenizer.get_vocab())} tokens"
            )
        return cls(tokenizer, weights["weight"], **config)

    @classmethod
    def from_json(
        cls,
        json_path: str | Path,
        tokenizer: Any,  # noqa: ANN401
        frozen: bool = False,
    ) -> Self:
        """Build from a JSON object token -> weight; tokens that are not in it weigh nothing.

        Raises:
            ModelError: the table names a token that the tokenizer does not have.
        """
        table = read_json(Path(json_path))
        vocab = tokenizer.get_vocab()
        if unknown := sorted(set(table) - set(vocab)):
            raise ModelError(
                f"{json_path}: {len(unknown)} of {len(table)} tokens are not in the tokenizer's "
                f"vocabulary, such as {unknown[:3]}; use the tokenizer that the table was made with"
            )
        weight = torch.zeros(len(vocab))
        weight[[vocab[token] for token in table]] = torch.tensor(list(table.values())).float()
        return cls(tokenizer, weight, frozen)

    def write_files(self, folder: Path) -> None:
        """Write settings, weights and tokenizer."""
        super().write_files(folder)
        self.tokenizer.save_pretrained(folder)

    def get_embedding_dimension(self) -> int:
        """Size of the vocabulary."""
        return len(self.weight)

    def to_tokens(
        self, inputs: Sequence[str] | Sequence[Pair], *, prompt: str = "", task: str | None = None
    ) -> Tokens:
        """Ragged tokens of N texts, without special tokens."""
        texts = texts_with_prompt(inputs, prompt)
        if not texts:
            return from_lists([])
        with exclusive_tokenizer(self.tokenizer):
            encoded = self.tokenizer(
                texts,
                add_special_tokens=False,
                truncation=False,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
        ids: list[list[int]] = encoded["input_ids"]
        limit = self.max_seq_length
        if limit is None:
            return from_lists(ids)
        side = slice(-limit, None) if self.tokenizer.truncation_side == "left" else slice(limit)
        return from_lists([row[side] for row in ids], [len(row) > limit for row in ids])

    collate = staticmethod(collate_bags)

    def forward(self, features: Features) -> Features:
        """Add ``sentence_embedding``, (B, V) as a coalesced sparse COO tensor.

        Behind another module the ids are padded, and that module's (B, V) embedding is multiplied
        with the weights of the tokens that occur: the result is dense.
        """
        ids = features["input_ids"]
        if "offsets" in features:
            n_rows, rows = len(features["offsets"]), bag_rows(ids, features["offsets"])
        else:
            n_rows = len(ids)
            rows, columns = features["attention_mask"].nonzero(as_tuple=True)
            ids = ids[rows, columns]
        # Each token counts once. Unique sorts: rows in order, ids ascending in each, as a coalesced
        # tensor wants them.
        keys = torch.unique(rows * len(self.weight) + ids)
        rows, ids = keys // len(self.weight), keys % len(self.weight)
        present = torch.sparse_coo_tensor(
            torch.stack([rows, ids]),
            self.weight[ids],
            (n_rows, len(self.weight)),
            is_coalesced=True,
            check_invariants=False,
        )
        before = features.get("sentence_embedding")
        features["sentence_embedding"] = present if before is None else before * present.to_dense()
        return features
