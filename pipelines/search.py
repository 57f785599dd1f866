"""Exact top-k of some queries over a snapshot, file by file: memory is one record batch."""

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from stx.pipelines.encoding.stages import Encoder
from stx.pipelines.encoding.stored_encoder import stored_encoder
from stx.pipelines.running.activity import phase
from stx.pipelines.spec.parts import RESERVED_COLUMNS
from stx_core.errors import SpecError
from stx_core.search.sparse_rows import SparseRows, to_coo
from stx_core.similarity import SimilarityFunction
from stx_core.store.data_file import read_batches
from stx_core.store.files.urls import redact
from stx_core.store.schema import dense_matrix, sparse_csr
from stx_core.store.snapshot import open_snapshot, snapshot_info

_ROWS_AT_ONCE = 65_536

_Hit = tuple[float, str, dict[str, Any]]  # negative score, id, row


def search_snapshot(
    path: str,
    queries: Sequence[str],
    *,
    output: str | None = None,
    version: int | None = None,
    top_k: int = 5,
    show: Sequence[str] = (),
    model: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> list[list[dict[str, Any]]]:
    """The rows of a snapshot that score highest for each query, in one pass over its files.

    Queries are encoded as queries by the model that wrote the snapshot, and scored by that
    model's similarity function. Equal scores are ordered by id.

    Args:
        path: the dataset.
        queries: Q texts.
        output: which output; needed when there are several.
        version: None for the current one.
        top_k: rows per query.
        show: copied columns to return; all of them if none is named.
        model: folder of the model, if it is not where the snapshot says.
        trust_remote_code: run code of the model's folder, if the output was written that way.
        allow_pickle: load pickled weights, if the output was written that way.

    Returns:
        Q lists of up to `top_k` rows, best first: ``id``, ``score`` and those columns.

    Raises:
        ModelError: the model's files are not those that wrote the snapshot, or need more trust.
        SpecError: no such output or column.
        StoreError: no snapshot.
    """
    snapshot = snapshot_info(path, version)
    outputs = snapshot.outputs
    dataset = open_snapshot(path, output=output, version=snapshot.version)
    info = outputs[output or next(iter(outputs))]
    settings = stored_encoder(
        info,
        redact(path),
        model=model,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    copied = [name for name in dataset.schema.names if name not in RESERVED_COLUMNS]
    for name in show:
        if name not in copied:
            raise SpecError(
                f"{redact(path)}: no column {name!r} was copied (inputs.columns of stx encode); "
                f"there is {', '.join(copied) or 'none'}"
            )
    columns = ["id", *(show or copied)]
    with phase("loading the model"):
        encoder = Encoder(settings)
    embedded = encoder.embed(list(queries), task="query").values
    vector = "embedding" if isinstance(embedded, np.ndarray) else "sparse_embedding"
    best: list[list[_Hit]] = [[] for _ in queries]
    with phase("searching"):
        for batch in read_batches(dataset, [*columns, vector], _ROWS_AT_ONCE):
            table = pa.Table.from_batches([batch]).select(columns)
            scores_QN = _scores(embedded, batch.column(vector), str(info["similarity"]))
            for query, scores in enumerate(scores_QN):
                best[query] = _merge(best[query], table, scores, top_k)
    return [[row for _, _, row in hits] for hits in best]


def _merge(best: list[_Hit], table: pa.Table, scores: np.ndarray, top_k: int) -> list[_Hit]:
    """The best of the hits so far and of one more batch."""
    rows = np.arange(len(scores))
    if len(scores) > top_k:
        # All that tie with the last one included.
        rows = np.flatnonzero(scores >= np.partition(scores, -top_k)[-top_k])
    pairs = zip(scores[rows].tolist(), table.take(pa.array(rows)).to_pylist(), strict=True)
    hits = [(-score, str(row["id"]), {"score": score} | row) for score, row in pairs]
    return heapq.nsmallest(top_k, best + hits, key=lambda hit: hit[:2])


def _scores(queries: np.ndarray | SparseRows, column: pa.Array, similarity: str) -> np.ndarray:
    """(Q, N) scores of a column of vectors."""
    score = SimilarityFunction.to_similarity_fn(similarity)
    if isinstance(queries, np.ndarray):
        dense: np.ndarray = score(queries, dense_matrix(column)).numpy()
        return dense
    documents = SparseRows(*sparse_csr(column))
    width = 1 + int(max(documents.indices.max(initial=0), queries.indices.max(initial=0)))
    tensors = (to_coo(rows, width, torch.float32) for rows in (queries, documents))
    sparse: np.ndarray = score(*tensors).numpy()
    return sparse
