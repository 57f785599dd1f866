"""Exact top-k of one query over a snapshot, file by file: memory is one record batch."""

import heapq
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.spec import RESERVED_COLUMNS
from pipelines.stages import Encoder, EncoderSettings
from stx_core.similarity import SimilarityFunction
from stx_core.store.schema import dense_matrix, sparse_csr
from stx_core.store.snapshot import open_snapshot, snapshot_info

_ROWS_AT_ONCE = 65_536


def search_snapshot(
    path: str, query: str, *, output: str | None = None, top_k: int = 5, model: str | None = None
) -> list[dict[str, Any]]:
    """The rows of a snapshot that score highest for a query.

    The query is encoded as a query by the model that wrote the snapshot, and scored by that
    model's similarity function. Equal scores are ordered by id.

    Args:
        path: the dataset.
        query: text.
        output: which output; needed when there are several.
        top_k: rows wanted.
        model: folder of the model, if it is not where the snapshot says.

    Returns:
        Up to `top_k` rows, best first: ``id``, ``score`` and the copied columns.

    Raises:
        ModelError: the model's files are not those that wrote the snapshot.
        StoreError: no snapshot, or no such output.
    """
    dataset = open_snapshot(path, output=output)
    outputs = snapshot_info(path).outputs
    info = outputs[output or next(iter(outputs))]
    settings = dict(info["settings"])
    if model is not None:
        settings |= {"model": model, "revision": None}
    encoder = Encoder(EncoderSettings(**settings))
    wanted = encoder.embed([query], task="query").values
    columns = ["id", *(name for name in dataset.schema.names if name not in RESERVED_COLUMNS)]
    vector = "embedding" if isinstance(wanted, np.ndarray) else "sparse_embedding"
    best: list[tuple[float, str, dict[str, Any]]] = []
    for batch in dataset.to_batches(columns=[*columns, vector], batch_size=_ROWS_AT_ONCE):
        scores = _scores(wanted, batch.column(vector), str(info["similarity"]))
        rows = _highest(scores, top_k)
        found = pa.Table.from_batches([batch]).select(columns).take(pa.array(rows)).to_pylist()
        scored = zip(scores[rows].tolist(), found, strict=True)
        best += [(-score, str(row["id"]), {"score": score} | row) for score, row in scored]
        best = heapq.nsmallest(top_k, best, key=lambda item: item[:2])
    return [row for _, _, row in best]


def _highest(scores: np.ndarray, top_k: int) -> np.ndarray:
    """Rows with the highest scores, all that tie with the last one included."""
    if len(scores) <= top_k:
        return np.arange(len(scores))
    threshold = np.partition(scores, -top_k)[-top_k]
    return np.flatnonzero(scores >= threshold)


def _scores(query: Any, column: pa.Array, similarity: str) -> np.ndarray:  # noqa: ANN401
    """(N,) scores of a column of vectors for one query."""
    if isinstance(query, np.ndarray):
        score = SimilarityFunction.to_similarity_fn(similarity)
        documents = dense_matrix(column).astype(np.float32, copy=False)
        dense: np.ndarray = score(query, documents).numpy()[0]
        return dense
    offsets, indices, values = sparse_csr(column)
    weights = np.zeros(
        int(max(indices.max(initial=0), query.indices.max(initial=0))) + 1, np.float32
    )
    weights[query.indices] = query.values
    products = np.concatenate([[0.0], np.cumsum(values * weights[indices], dtype=np.float64)])
    dot: np.ndarray = products[offsets[1:]] - products[offsets[:-1]]
    if similarity == "dot":
        return dot
    lengths = np.concatenate([[0.0], np.cumsum(values.astype(np.float64) ** 2)])
    norms = np.sqrt(lengths[offsets[1:]] - lengths[offsets[:-1]]) * np.linalg.norm(query.values)
    cosine: np.ndarray = dot / np.maximum(norms, 1e-12)
    return cosine
