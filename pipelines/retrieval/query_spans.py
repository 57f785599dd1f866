"""Places of the rows of each query in the files of a ranking.

A span is a run of rows of one query. A ranking has one of each query, judged pairs may have
several. The driver collects the spans of a ranking into one Arrow IPC file, sorted by a hash of the
query's id; workers map it into memory and read only the rows of their own queries.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from stx.pipelines.planning.snapshot_files import DataFile
from stx_core.errors import InputError, StoreError
from stx_core.mining.coded import ranges
from stx_core.store.data_file import read_columns
from stx_core.store.files.filesystem import read_bytes, write_new
from stx_core.store.files.parallel import parallel
from stx_core.store.files.urls import LOCAL, join, local_path, redact, scheme

_FILES = b"files"
_SCHEMA = pa.schema(
    [
        pa.field("query", pa.uint64()),
        pa.field("file", pa.int32()),
        pa.field("start", pa.int64()),
        pa.field("stop", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Spans:
    """S spans, sorted by query, file and row.

    Attributes:
        files: URLs.
        query: (S,) uint64, see `query_hashes`.
        file: (S,) int32, position in `files`.
        start: (S,) int64, first row.
        stop: (S,) int64, behind the last one.
    """

    files: Sequence[str]
    query: np.ndarray
    file: np.ndarray
    start: np.ndarray
    stop: np.ndarray


def query_starts(file: DataFile) -> tuple[np.ndarray, pa.Array]:
    """Rows of a file at which another query begins, (R,) int64, and these queries' ids."""
    ids = read_columns(file.url, ["query_id"])["query_id"].combine_chunks()
    codes = ids.dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    return starts.astype(np.int64), ids.take(pa.array(starts))


def query_hashes(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """(N,) uint64: 64-bit hashes of ids, some 3 million a second."""
    texts = ids.cast(pa.large_string()).to_pylist()
    return np.array([xxhash.xxh3_64_intdigest(text.encode()) for text in texts], np.uint64)


def find_spans(files: Sequence[DataFile]) -> Spans:
    """Collect the spans of a ranking; reads its column ``query_id``, and nothing else.

    Raises:
        StoreError: a file cannot be read.
    """

    def spans_of(item: tuple[int, DataFile]) -> tuple[np.ndarray, ...]:
        number, file = item
        starts, ids = query_starts(file)
        stops = np.append(starts[1:], file.rows)
        return query_hashes(ids), np.full(len(starts), number, np.int32), starts, stops

    parts = parallel(spans_of, list(enumerate(files)))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    if not parts:
        columns = [np.zeros(0, field.type.to_pandas_dtype()) for field in _SCHEMA]
    query, number, start, _ = columns
    order = np.lexsort((start, number, query))
    return Spans([file.url for file in files], *(column[order] for column in columns))


def refuse_scattered(spans: Spans) -> None:
    """Refuse a ranking with queries whose rows do not stand together.

    Raises:
        InputError: there is one; names it.
    """
    again = np.flatnonzero(spans.query[1:] == spans.query[:-1])
    if not len(again):
        return
    place = int(again[0]) + 1
    url, row = spans.files[spans.file[place]], int(spans.start[place])
    name = read_columns(url, ["query_id"], np.array([row]))["query_id"][0].as_py()
    raise InputError(
        f"{redact(url)} row {row}: query {name!r} has rows elsewhere too ({len(again)} such "
        "queries); give each query one id, and retrieve again"
    )


def publish_spans(spans: Spans, folder: str, name: str) -> str:
    """Put spans where the workers of a run find them, under a name that nobody else uses; its URL.

    Raises:
        StoreError: it cannot be written.
    """
    schema = _SCHEMA.with_metadata({_FILES: json.dumps(list(spans.files))})
    table = pa.table([spans.query, spans.file, spans.start, spans.stop], schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(table)
    url = join(folder, f"{name}-{uuid.uuid4().hex}.arrow")
    write_new(url, sink.getvalue().to_pybytes())
    return url


@lru_cache(maxsize=8)
def open_spans(url: str) -> Spans:
    """Spans that were published; on a local disk they are mapped and not read."""
    local = scheme(url) == LOCAL
    source = pa.memory_map(local_path(url)) if local else pa.BufferReader(read_bytes(url))
    try:
        table = pa.ipc.open_file(source).read_all().combine_chunks()
    except pa.ArrowException as error:
        raise StoreError(f"{redact(url)}: damaged; run again, it is made again") from error
    columns = [table[name].to_numpy() for name in _SCHEMA.names]
    return Spans(json.loads(table.schema.metadata[_FILES]), *columns)


def rows_of_queries(spans: Spans, query_ids: pa.Array, schema: pa.Schema) -> pa.Table:
    """Rows of some queries, each query's in their order; queries in the order of the files.

    Args:
        spans: of a ranking.
        query_ids: (Q,) each once.
        schema: columns to read, ``query_id`` among them.

    Raises:
        StoreError: a file cannot be read.
    """
    hashes = np.sort(query_hashes(query_ids))
    first = np.searchsorted(spans.query, hashes, side="left")
    last = np.searchsorted(spans.query, hashes, side="right")
    chosen = ranges(first, last - first)
    chosen = chosen[np.lexsort((spans.start[chosen], spans.file[chosen]))]
    parts = [schema.empty_table()]
    for number in np.unique(spans.file[chosen]).tolist():
        in_file = chosen[spans.file[chosen] == number]
        rows = ranges(spans.start[in_file], spans.stop[in_file] - spans.start[in_file])
        parts.append(read_columns(spans.files[number], schema.names, rows).cast(schema))
    table = pa.concat_tables(parts)
    # Two ids may have one hash.
    return table.filter(pc.is_in(table["query_id"], value_set=query_ids)).combine_chunks()
