"""Index files of FAISS and usearch, each with a table that says which row is which document."""

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from stx.pipelines.exports.engines import load_engine
from stx.pipelines.exports.new_file import refuse_existing
from stx.pipelines.exports.options import ExportOptions
from stx.pipelines.exports.parts import refuse_file
from stx.pipelines.exports.tables import write_tables
from stx.pipelines.exports.vectors import Batch, Vectors, open_vectors
from stx_core.errors import SpecError
from stx_core.store.files.filesystem import upload
from stx_core.store.files.urls import join
from stx_core.store.schema import write_options

ROWS_FILE = "rows.parquet"

# FAISS asks for 39 to 256 rows per list; with this many, indexes of 1,000 lists are trained well.
_TRAINING_ROWS = 100_000

_FAISS = {
    "cosine": "METRIC_INNER_PRODUCT",
    "dot": "METRIC_INNER_PRODUCT",
    "euclidean": "METRIC_L2",
    "manhattan": "METRIC_L1",
}
_USEARCH = {"cosine": "cos", "dot": "ip", "euclidean": "l2sq"}


def write_faiss(dataset: ds.FileSystemDataset, destination: str, options: ExportOptions) -> int:
    """Write ``index.faiss`` and ``rows.parquet`` into a folder; gives the rows.

    The index is made in memory. Row i of the table, with ``id`` and copied columns, is vector i of
    the index. For cosine the vectors are scaled to length one: scale queries alike. An id that
    occurs twice is two vectors.

    Raises:
        SpecError: there is an index already, or FAISS does not know the recipe.
    """
    vectors = open_vectors(dataset, options, "faiss", "dense")
    faiss = load_engine("faiss", "faiss", "ann")
    recipe = options.recipe or "Flat"
    try:
        index = faiss.index_factory(vectors.dim, recipe, getattr(faiss, vectors.metric(_FAISS)))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1]
        raise SpecError(f"--recipe {recipe}: FAISS cannot make it ({reason})") from None
    if not index.is_trained:
        # With rows from all over the dataset, at equal distances.
        step = -(-vectors.n_rows // _TRAINING_ROWS)
        first, sample = 0, [np.empty((0, vectors.dim), np.float32)]
        for batch in vectors.batches():
            sample.append(_comparable(batch, vectors)[-first % step :: step])
            first += len(batch)
        index.train(np.concatenate(sample))
    save = partial(faiss.write_index, index)
    return _write(vectors, destination, "index.faiss", add=index.add, save=save)


def write_usearch(dataset: ds.FileSystemDataset, destination: str, options: ExportOptions) -> int:
    """Write ``index.usearch`` and ``rows.parquet`` into a folder; gives the rows.

    The index is made in memory. Key i of it is row i of the table, with ``id`` and copied columns.
    An id that occurs twice is two vectors.

    Raises:
        SpecError: there is an index already, or the model compares by manhattan.
    """
    vectors = open_vectors(dataset, options, "usearch", "dense")
    usearch = load_engine("usearch.index", "usearch", "usearch")
    dtype = "f16" if vectors.is_half else "f32"
    index = usearch.Index(ndim=vectors.dim, metric=vectors.metric(_USEARCH), dtype=dtype)
    # None: keys are counted from 0.
    add = partial(index.add, None)
    return _write(vectors, destination, "index.usearch", add=add, save=index.save)


def _write(
    vectors: Vectors,
    destination: str,
    name: str,
    *,
    add: Callable[[np.ndarray], object],
    save: Callable[[str], object],
) -> int:
    """Fill an index and put it, after the table of its rows, into the folder."""
    refuse_file(destination)
    refuse_existing(join(destination, name))
    schema = pa.schema([pa.field("id", pa.string()), *vectors.payload])
    n_rows = 0

    def rows() -> Iterator[pa.Table]:
        nonlocal n_rows
        for batch in vectors.batches():
            add(_comparable(batch, vectors))
            n_rows += len(batch)
            yield pa.table([batch.ids, *batch.payload.columns], schema=schema)

    with tempfile.TemporaryDirectory(prefix="stx-") as folder:
        table, index = os.path.join(folder, ROWS_FILE), os.path.join(folder, name)
        write_tables(table, schema, rows(), **write_options(schema))
        save(index)
        # The index comes last: where it is, the export is whole.
        upload(table, join(destination, ROWS_FILE))
        upload(index, join(destination, name))
    return n_rows


def _comparable(batch: Batch, vectors: Vectors) -> np.ndarray:
    """(N, D) float32, of length one where cosines are asked for."""
    matrix = batch.matrix
    if vectors.similarity != "cosine":
        return matrix
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    scaled: np.ndarray = matrix / np.maximum(lengths, np.float32(1e-30))
    return scaled
