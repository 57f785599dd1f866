"""Rows of a unit that the current snapshot has already: looked up by content hash, not encoded.

The reader marks them, the encoder gets the texts that are left, the writer fetches the results.
Both check all bytes of a file before they rely on it: what was damaged is not written again under a
new checksum.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.running import unit_table
from stx_core.errors import DamagedFile, StoreError
from stx_core.store import damage
from stx_core.store.data_file import check_whole, read_columns
from stx_core.store.files.urls import join, redact
from stx_core.store.hash_index import name_of, open_index, to_hashes
from stx_core.store.schema import dense_column, dense_matrix

logger = logging.getLogger(__name__)

PLACE = pa.struct([("file", pa.int32()), ("row", pa.int64())])

# What an output has for each row, beside the vector.
_COUNTS = {"n_tokens": pa.int32(), "truncated": pa.bool_()}

# Each holds one decoded row group, some 32 MB.
_READERS = 4

# What torch takes for a vector without length, so that both normalise alike.
_SMALLEST_NORM = 1e-12


@dataclass(frozen=True)
class Source:
    """Place where the rows of a due output may be found.

    Attributes:
        output: of the current snapshot, with the same vectors or longer ones.
        cut: leading dimensions to keep of its vectors; None for all.
        normalize: divide what was cut by its norm.
        index: of its data files, see `hash_index`; empty before it is built.
    """

    output: str
    cut: int | None = None
    normalize: bool = False
    index: str = ""


@dataclass(frozen=True)
class CarriedCounts:
    """Rows of an output that are taken from the snapshot, their tokens, and how many were cut."""

    rows: int
    tokens: int
    truncated: int


def mark(
    table: pa.Table, output: str, source: Source, root: str, *, notes: bool = True
) -> pa.Table:
    """Add ``<output>.carried``: where each row's results are in the snapshot, null where nowhere.

    Args:
        table: of a unit, as it was read.
        output: that is due.
        source: of its rows; those of damaged files count as nowhere.
        root: the dataset.
        notes: leave notes of damaged files; a plan that is only shown writes nothing.
    """
    hashes = table.column(unit_table.HASH).combine_chunks()
    valid = hashes.is_valid().to_numpy(zero_copy_only=False)
    files, rows = np.full(len(table), -1, np.int32), np.zeros(len(table), np.int64)
    index = open_index(source.index)
    files[valid], rows[valid] = index.find(to_hashes(hashes.drop_null()))
    bad = []
    for number in np.unique(files[files >= 0]).tolist():
        file, checksum = name_of(index.files[number])
        try:
            check_whole(join(root, file), checksum)
        except DamagedFile as error:
            logger.warning("its rows are encoded again: %s", error)
            bad.append(number)
    for number in bad if notes else ():
        damage.note(root, name_of(index.files[number])[0])
    files[np.isin(files, bad)] = -1
    places = pa.StructArray.from_arrays(
        [pa.array(files), pa.array(rows)], fields=list(PLACE), mask=pa.array(files < 0)
    )
    return table.append_column(_name(output), places)


def n_carried(table: pa.Table, output: str) -> int:
    """Number of rows whose results are taken from the snapshot."""
    name = _name(output)
    return len(table) - table.column(name).null_count if name in table.column_names else 0


def carried_counts(table: pa.Table, output: str) -> CarriedCounts:
    """Counts of the rows whose results are taken from the snapshot."""
    n_rows = n_carried(table, output)
    if not n_rows:
        return CarriedCounts(0, 0, 0)
    carried = table.column(_name(output)).is_valid()
    tokens, truncated = (
        int(pc.sum(table.column(f"{output}.{name}").filter(carried)).as_py()) for name in _COUNTS
    )
    return CarriedCounts(n_rows, tokens, truncated)


def texts_to_encode(table: pa.Table, output: str) -> pa.ChunkedArray:
    """(N,) texts, null where the row is rejected or its results are taken from the snapshot."""
    texts = table.column(unit_table.TEXT)
    if not n_carried(table, output):
        return texts
    return pc.if_else(table.column(_name(output)).is_null(), texts, pa.scalar(None, texts.type))


def complete(
    table: pa.Table, output: str, vector: pa.Field, source: Source | None, root: str
) -> pa.Table:
    """Put what the snapshot has beside what was encoded.

    Args:
        table: as the stages left it; without the encoder's columns if nothing was to be encoded.
        output: that is due.
        vector: column of the vectors in the output's files.
        source: of the rows that `mark` found.
        root: the dataset.

    Returns:
        The table with ``<output>.vector``, ``.n_tokens``, ``.truncated`` and ``.rejected``.

    Raises:
        DamagedFile: a file of the snapshot was damaged since its rows were marked.
        StoreError: a file of the snapshot cannot be read.
    """
    kinds = {"vector": vector.type, **_COUNTS, "rejected": unit_table.REJECTION}
    for name, kind in kinds.items():
        if f"{output}.{name}" not in table.column_names:
            table = table.append_column(f"{output}.{name}", pa.nulls(len(table), kind))
    if source is None or not n_carried(table, output):
        return table
    carried = table.column(_name(output)).is_valid().to_numpy()
    at = np.flatnonzero(carried)
    marked = table.select([unit_table.HASH, _name(output)]).take(pa.array(at))
    fetched = _fetch(root, source, marked, output, vector.name)
    # Row i of the result is row choice[i] of the table with the fetched rows below it.
    choice = np.arange(len(table))
    choice[at] = len(table) + np.arange(len(at))
    for name in ("vector", *_COUNTS):
        position = table.column_names.index(f"{output}.{name}")
        chunks = [*table.column(position).chunks, *fetched[name].cast(kinds[name]).chunks]
        merged = pa.chunked_array(chunks, kinds[name]).combine_chunks().take(pa.array(choice))
        table = table.set_column(position, f"{output}.{name}", merged)
    return table


def _name(output: str) -> str:
    return f"{output}.carried"


def _fetch(
    root: str, source: Source, marked: pa.Table, output: str, vector: str
) -> dict[str, pa.ChunkedArray]:
    """Results of marked rows from the snapshot's files, in the order of the rows."""
    places = marked.column(_name(output)).combine_chunks()
    files, rows = (places.field(name).to_numpy() for name in PLACE.names)
    order = np.lexsort((rows, files))
    groups = np.split(order, np.flatnonzero(np.diff(files[order])) + 1)
    index = open_index(source.index)

    def read(group: np.ndarray) -> pa.Table:
        file, checksum = name_of(index.files[files[group[0]]])
        url = join(root, file)
        check_whole(url, checksum)
        return read_columns(url, [vector, *_COUNTS, "content_hash"], rows[group])

    with ThreadPoolExecutor(_READERS) as pool:
        results = pa.concat_tables(pool.map(read, groups)).take(pa.array(np.argsort(order)))
    if not results.column("content_hash").equals(marked.column(unit_table.HASH)):
        raise StoreError(
            f"{redact(source.index)}: does not fit the files of the snapshot; remove it, run again"
        )
    vectors = results.column(vector)
    if source.cut is not None:
        matrix = dense_matrix(vectors)
        short = matrix[:, : source.cut].astype(np.float32)
        if source.normalize:
            short /= np.maximum(np.linalg.norm(short, axis=1, keepdims=True), _SMALLEST_NORM)
        vectors = pa.chunked_array([dense_column(short.astype(matrix.dtype))])
    return {"vector": vectors, **{name: results.column(name) for name in _COUNTS}}
