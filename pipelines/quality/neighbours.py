"""Nearest neighbours in a sample of rows: who they are, and how many of them stay.

A bounded number of rows is read: those of a few new files, and of the files that hold the same rows
of the same shards in the snapshot before. Rows of shards with another name are not found.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from stx.pipelines.models.settings import VECTOR_COLUMN
from stx.pipelines.quality.statistics import overlap
from stx_core.store.data_file import read_columns
from stx_core.store.files.urls import join
from stx_core.store.log_state import OutputFacts
from stx_core.store.schema import dense_matrix, sparse_csr

_K = 10
# With fewer rows too many neighbours are shared by chance.
_FEWEST_ROWS = 5 * _K
_FILES = 16
_OLD_FILES_OF_ONE = 4

# To be looked at: files, rows of each, neighbours of a row.
_SHOWN_FILES = 4
_SHOWN_ROWS = 128
_SHOWN = 3

# Norms below are those of vectors without direction.
_SMALLEST_NORM = 1e-12


@dataclass(frozen=True)
class Version:
    """One output in one snapshot: manifest rows, and what is known of it."""

    rows: pa.Table
    facts: OutputFacts


@dataclass(frozen=True)
class Neighbours:
    """A row of an output, and those of a sample that are nearest to it.

    Attributes:
        id: of the row.
        nearest: their ids and cosines, the nearest first.
    """

    id: str
    nearest: Sequence[tuple[str, float]]


def neighbour_overlap(root: str, before: Version, after: Version, n_rows: int) -> float | None:
    """Mean overlap of the ten nearest neighbours, by cosine, within a sample of rows.

    Args:
        root: the dataset.
        before: in the current snapshot.
        after: in the one that shall follow; only its new rows.
        n_rows: at most so many are compared, each text once.

    Returns:
        1 where all neighbours stayed, about ``10 / n_rows`` by chance; None where too few rows are
        in both, or nothing can have changed.

    Raises:
        StoreError: a file cannot be read.
    """
    common = list(_common_rows(root, before.rows, after.rows)) if n_rows else []
    sample = _sample(pa.concat_tables(common), n_rows) if common else pa.table({})
    if len(sample) < _FEWEST_ROWS:
        return None
    if before.facts["fingerprint"] == after.facts["fingerprint"] and sample["old_text"].equals(
        sample["text"]
    ):
        return None
    old = _read(root, sample["old_file"], sample["old_row"], VECTOR_COLUMN[before.facts["type"]])
    new = _read(root, sample["file"], sample["row"], VECTOR_COLUMN[after.facts["type"]])
    return overlap(_cosines(old), _cosines(new), _K)


def sample_neighbours(root: str, output: Version, n_rows: int) -> Iterator[Neighbours]:
    """Rows of a few files with those nearest to them, by cosine, within a sample of these files.

    Args:
        root: the dataset.
        output: rows of `ledger.RECORDS` or of the manifest, and what is known of the output.
        n_rows: for so many rows, chosen by hashes; each text once.

    Raises:
        StoreError: a file cannot be read.
    """
    full = output.rows.filter(pc.greater(output.rows["file_rows"], 0))
    # Keys are hashes: the first ones are a random choice.
    files = full.sort_by("key").slice(0, _SHOWN_FILES)["file"].to_pylist()
    columns = ["id", "content_hash", VECTOR_COLUMN[output.facts["type"]]]
    tables = [_sampled_rows(join(root, file), columns) for file in files]
    if not tables:
        return
    # Equal texts have equal vectors, and which of them is nearer is chance.
    sample = pa.concat_tables(tables)
    _, first = np.unique(sample["content_hash"].to_pylist(), return_index=True)
    sample = sample.take(pa.array(first))
    ids, cosines_SS = sample["id"].to_pylist(), _cosines(sample[columns[-1]])
    np.fill_diagonal(cosines_SS, -np.inf)
    for row, cosines_S in enumerate(cosines_SS[:n_rows]):
        nearest = np.argsort(-cosines_S, kind="stable")[: min(_SHOWN, len(ids) - 1)].tolist()
        yield Neighbours(str(ids[row]), [(str(ids[at]), float(cosines_S[at])) for at in nearest])


def _sampled_rows(url: str, columns: Sequence[str]) -> pa.Table:
    """The rows of a file with the smallest hashes of texts."""
    hashes = read_columns(url, ["content_hash"])["content_hash"].to_pylist()
    return read_columns(url, columns, np.sort(np.argsort(hashes, kind="stable")[:_SHOWN_ROWS]))


def _common_rows(root: str, before: pa.Table, after: pa.Table) -> Iterator[pa.Table]:
    """Places of rows with the same id in new files and in the files of the same shard before."""
    before, after = (rows.filter(pc.not_equal(rows["file"], "")) for rows in (before, after))
    # Keys are hashes: the first ones are a random choice.
    for row in after.sort_by("key").slice(0, _FILES).to_pylist():
        same = pc.and_(
            pc.equal(before["url"], row["url"]),
            pc.and_(
                pc.less(before["start"], row["stop"]), pc.greater(before["stop"], row["start"])
            ),
        )
        for old_file in before.filter(same)["file"].to_pylist()[:_OLD_FILES_OF_ONE]:
            (new_ids, texts), (old_ids, old_texts) = (
                _ids_and_texts(join(root, file)) for file in (row["file"], old_file)
            )
            ids, rows, old_rows = np.intersect1d(new_ids, old_ids, return_indices=True)
            yield pa.table(
                {
                    "id": ids,
                    "text": texts.take(pa.array(rows)),
                    "file": pa.repeat(row["file"], len(ids)),
                    "row": rows,
                    "old_text": old_texts.take(pa.array(old_rows)),
                    "old_file": pa.repeat(old_file, len(ids)),
                    "old_row": old_rows,
                }
            )


def _ids_and_texts(url: str) -> tuple[np.ndarray, pa.ChunkedArray]:
    """(N,) uint64 hashes of the ids of a file, and (N,) hashes of its texts."""
    table = read_columns(url, ["id", "content_hash"])
    ids = table["id"].cast(pa.string()).cast(pa.large_binary()).to_pylist()
    hashes = np.fromiter(map(xxhash.xxh3_64_intdigest, ids), np.uint64, len(ids))
    return hashes, table["content_hash"]


def _sample(common: pa.Table, n_rows: int) -> pa.Table:
    """The rows with the smallest hashes of ids, the same in every run; of equal texts one.

    Equal texts have equal vectors, and which of them is nearer is chance.
    """
    common = common.sort_by("id")
    chosen: list[int] = []
    seen: set[str] = set()
    pairs = zip(common["text"].to_pylist(), common["old_text"].to_pylist(), strict=True)
    for i, texts in enumerate(pairs):
        if seen.isdisjoint(texts):
            chosen.append(i)
            seen.update(texts)
        if len(chosen) == n_rows:
            break
    return common.take(pa.array(chosen, pa.int64()))


def _read(root: str, files: pa.ChunkedArray, rows: pa.ChunkedArray, vector: str) -> pa.ChunkedArray:
    """Vectors of rows of some files, in the order of the rows."""
    names, numbers = np.array(files.to_pylist()), rows.to_numpy()
    order = np.lexsort((numbers, names))
    groups = np.split(order, np.flatnonzero(names[order][1:] != names[order][:-1]) + 1)
    tables = [
        read_columns(join(root, str(names[group[0]])), [vector], numbers[group]) for group in groups
    ]
    return pa.concat_tables(tables)[vector].take(pa.array(np.argsort(order)))


def _cosines(vectors: pa.ChunkedArray) -> np.ndarray:
    """(N, N) cosines of the rows with each other; 0 for vectors that are zero."""
    if pa.types.is_struct(vectors.type):
        # Takes as long to import as all else of a start that has nothing to do.
        import scipy.sparse

        offsets, indices, values = sparse_csr(vectors)
        rows = scipy.sparse.csr_matrix((values.astype(np.float64), indices, offsets))
        dots = (rows @ rows.T).toarray()
    else:
        matrix = dense_matrix(vectors).astype(np.float64)
        dots = matrix @ matrix.T
    norms = np.maximum(np.sqrt(np.diag(dots)), _SMALLEST_NORM)
    cosines: np.ndarray = dots / np.outer(norms, norms)
    return cosines
