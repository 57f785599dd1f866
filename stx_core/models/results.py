"""Results of models for a corpus, with the counts that are kept beside them."""

from dataclasses import dataclass, field
from typing import NotRequired, TypedDict

import numpy as np

from stx_core.search.sparse_rows import SparseRows


@dataclass(frozen=True)
class Embedded:
    """Embeddings of N texts, with the counts that a corpus keeps beside them.

    Attributes:
        values: (N, D) float32, or `SparseRows`; zeros or no entries for failed rows.
        n_tokens: (N,) int32, tokens that the model read, special tokens counted.
        truncated: (N,) bool, the text had more tokens than that.
        failed: row -> reason, for texts that do not fit into memory even alone.
    """

    values: np.ndarray | SparseRows
    n_tokens: np.ndarray
    truncated: np.ndarray
    failed: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """Scores of N pairs, with the counts that a corpus keeps beside them.

    Attributes:
        scores: (N,) float32, or (N, K) for K > 1 labels; NaN for failed rows.
        n_tokens: (N,) int32, tokens that the model read of both texts, special tokens counted.
        truncated: (N,) bool, the pair had more tokens than that.
        failed: row -> reason, for pairs that do not fit into memory even alone.
    """

    scores: np.ndarray
    n_tokens: np.ndarray
    truncated: np.ndarray
    failed: dict[int, str] = field(default_factory=dict)


class Ranked(TypedDict):
    """A document with its score; `corpus_id` is its place among those given."""

    corpus_id: int
    score: float
    text: NotRequired[str]
