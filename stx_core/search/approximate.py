"""Top-k with a rough first pass: small codes or an index propose rows, exact scores decide.

What is found is scored and ordered as `dense_top_k` does; only rows that the first pass did not
propose are missed. How many, a sample of the queries tells, which is also searched exactly.

Q queries, N corpus rows, D width, C candidates of a query.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from stx_core.errors import SpecError
from stx_core.plugins import foreign_code
from stx_core.search.dense import dense_top_k
from stx_core.search.exact import scores_of_rows, viewed
from stx_core.search.first_passes import FIRST_PASSES
from stx_core.search.results import NO_ROW, TopK, best_of

OVERSAMPLE = 4
SAMPLE = 64

# Scores of the first pass held at a time: 64 MB as float32.
_BLOCK_PAIRS = 1 << 24

# Lists of an inverted file, and how many of them are looked at; links of a graph's node.
_ROWS_PER_LIST = 256
_LISTS_LOOKED_AT = 0.05
_LINKS = 32


class RoughIndex:
    """A part of a corpus, prepared for a first pass.

    Args:
        corpus: (N, D) float32.
        similarity: "cosine", "dot" or "euclidean"; manhattan has no rough form here.
        kind: "int8" (a byte per dimension), "binary" (a bit), "ivf" or "hnsw" (of FAISS), or what a
            plug-in calls its own.

    Raises:
        SpecError: the kind does not go with the similarity, or faiss is not installed.
        InputError: code of a plug-in fails.
    """

    def __init__(self, corpus: np.ndarray, similarity: str, kind: str) -> None:
        if similarity == "manhattan" or (kind == "binary" and similarity != "cosine"):
            raise SpecError(f"a first pass by {kind} does not go with {similarity}")
        self.corpus, self.similarity, self.kind = corpus, similarity, kind
        made_by = FIRST_PASSES.named(kind, f"first pass {kind!r}")
        with foreign_code(f"first pass {kind}"):
            self.first_pass = made_by(corpus, similarity)

    def top_k(
        self,
        queries: np.ndarray,
        k: int,
        *,
        excluded: np.ndarray | None = None,
        oversample: int = OVERSAMPLE,
    ) -> TopK:
        """The k best rows among those that the first pass proposes, `oversample` times k.

        Args:
            queries: (Q, D) float32.
            k: rows of a query.
            excluded: (Q,) int64, a row that may not be found for that query, -1 for none.
            oversample: the more, the fewer rows are missed, and the more are scored.
        """
        n_candidates = min(len(self.corpus), oversample * k + 1)
        rows = self._propose(queries, n_candidates)
        if excluded is not None:
            rows = np.where(rows == excluded[:, None], NO_ROW, rows)
        used = rows != NO_ROW
        query_rows = np.repeat(np.arange(len(queries)), used.sum(axis=1))
        scores = np.full(rows.shape, -np.inf, np.float32)
        scores[used] = scores_of_rows(
            viewed(queries, "queries"), viewed(self.corpus, "corpus"),
            torch.from_numpy(query_rows), torch.from_numpy(rows[used]), self.similarity,
        ).numpy()  # fmt: skip
        return best_of(rows, scores, k)

    def recall(
        self,
        queries: np.ndarray,
        k: int,
        *,
        excluded: np.ndarray | None = None,
        oversample: int = OVERSAMPLE,
    ) -> float | None:
        """Share of the exact k best rows that `top_k` finds, for a sample of the queries."""
        sample = np.linspace(0, len(queries) - 1, min(SAMPLE, len(queries))).astype(np.int64)
        left_out = None if excluded is None else excluded[sample]
        exact = dense_top_k(
            queries[sample], self.corpus, k, self.similarity, excluded=left_out
        ).rows
        approximate = self.top_k(queries[sample], k, excluded=left_out, oversample=oversample).rows
        n_exact = sum(int((row != NO_ROW).sum()) for row in exact)
        if not n_exact:
            return None
        pairs = zip(exact, approximate, strict=True)
        return sum(len(np.intersect1d(a[a != NO_ROW], b)) for a, b in pairs) / n_exact

    def _propose(self, queries: np.ndarray, count: int) -> np.ndarray:
        """(Q, C) int64 rows, -1 where there are fewer."""
        with foreign_code(f"first pass {self.kind}"):
            rows = np.asarray(self.first_pass.propose(queries, count), np.int64)
            if rows.shape != (len(queries), count) or rows.max(initial=-1) >= len(self.corpus):
                raise ValueError(f"{rows.shape} rows proposed up to {rows.max(initial=-1)}, for "
                                 f"{(len(queries), count)} of {len(self.corpus)}")  # fmt: skip
        return rows


class Signs:
    """A bit per dimension, its sign: rows with the fewest that differ. For "cosine"."""

    def __init__(self, corpus: np.ndarray, similarity: str) -> None:  # noqa: ARG002  (FirstPass)
        self.codes = np.packbits(corpus > 0, axis=1)

    def propose(self, queries: np.ndarray, count: int) -> np.ndarray:
        """See `FirstPass`."""
        return _best(self._scores, queries, len(self.codes), count)

    def _scores(self, queries: np.ndarray) -> torch.Tensor:
        """(B, N) minus the number of signs that differ."""
        signs = np.packbits(queries > 0, axis=1)
        counts = np.zeros((len(queries), len(self.codes)), np.int16)
        for byte in range(signs.shape[1]):
            counts += np.bitwise_count(signs[:, byte, None] ^ self.codes[None, :, byte])
        return torch.from_numpy(-counts)


class Bytes:
    """A byte per dimension, in steps of a 127th of the largest number there."""

    def __init__(self, corpus: np.ndarray, similarity: str) -> None:
        self.similarity = similarity
        self.step = np.abs(corpus).max(axis=0, initial=0) / 127
        safe = np.where(self.step > 0, self.step, 1)
        self.codes = torch.from_numpy(np.rint(corpus / safe).astype(np.int8))
        self.lengths = np.linalg.norm(corpus, axis=1)

    def propose(self, queries: np.ndarray, count: int) -> np.ndarray:
        """See `FirstPass`."""
        return _best(self._scores, queries, len(self.codes), count)

    def _scores(self, queries: np.ndarray) -> torch.Tensor:
        """(B, N) numbers in the order of the similarity, of the codes."""
        scaled = torch.from_numpy((queries * self.step).astype(np.float32))
        scores: torch.Tensor = scaled @ self.codes.float().T
        if self.similarity == "cosine":
            scores /= torch.from_numpy(np.maximum(self.lengths, 1e-30).astype(np.float32))
        if self.similarity == "euclidean":
            scores -= torch.from_numpy(np.square(self.lengths).astype(np.float32)) / 2
        return scores


class FaissIndex:
    """An index of FAISS, by "ivf" or "hnsw"."""

    def __init__(self, corpus: np.ndarray, similarity: str, kind: str) -> None:
        self.similarity = similarity
        self.index = _faiss_index(self._alike(corpus), similarity, kind)

    def propose(self, queries: np.ndarray, count: int) -> np.ndarray:
        """See `FirstPass`."""
        rows: np.ndarray = self.index.search(self._alike(queries), count)[1]
        return rows

    def _alike(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors as FAISS takes them: of length one for cosines."""
        if self.similarity != "cosine":
            return np.ascontiguousarray(vectors, np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.ascontiguousarray(vectors / np.maximum(lengths, 1e-30), np.float32)


ivf = partial(FaissIndex, kind="ivf")
hnsw = partial(FaissIndex, kind="hnsw")


def _best(
    scores_of: Callable[[np.ndarray], torch.Tensor], queries: np.ndarray, n_rows: int, count: int
) -> np.ndarray:
    """(Q, count) int64 rows with the highest scores, some queries at a time."""
    best = np.empty((len(queries), count), np.int64)
    step = max(1, _BLOCK_PAIRS // max(1, n_rows))
    for start in range(0, len(queries), step):
        scores = scores_of(queries[start : start + step])
        best[start : start + step] = scores.topk(count, dim=1, sorted=False).indices.numpy()
    return best


def _faiss_index(corpus: np.ndarray, similarity: str, kind: str) -> Any:  # noqa: ANN401
    try:
        import faiss
    except ImportError:
        raise SpecError(f"a first pass by {kind} needs faiss: pip install faiss-cpu") from None
    metric = faiss.METRIC_L2 if similarity == "euclidean" else faiss.METRIC_INNER_PRODUCT
    n_lists = max(1, len(corpus) // _ROWS_PER_LIST)
    recipe = f"HNSW{_LINKS},Flat" if kind == "hnsw" else f"IVF{n_lists},Flat"
    index: Any = faiss.index_factory(corpus.shape[1], recipe, metric)
    if kind == "ivf":
        index.nprobe = max(1, round(_LISTS_LOOKED_AT * n_lists))
        index.train(corpus)
    index.add(corpus)
    return index
