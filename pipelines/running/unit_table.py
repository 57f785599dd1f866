"""The table of one unit on its way through the stages: its columns, and the notes it carries.

    _row        int64   position in the shard
    _id         string or int64
    _text       string, null where the row is rejected
    _hash       string, 128-bit hash of the text in hex
    _rejected   struct<reason, column, detail>, null where the row is good
    c.<name>    columns copied from the corpus
    <output>.carried  struct<file, row>, where the current snapshot has the results of a row; null
                      where it has none; absent if there is nothing to look in
    <output>.…  what the encode stage adds for each output that has texts to encode

Notes are small JSON values in the schema's metadata, see `Notes`.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypedDict, Unpack, cast

import pyarrow as pa

from stx_core.store.files.retries import take_counts

ROW = "_row"
ID = "_id"
TEXT = "_text"
HASH = "_hash"
REJECTED = "_rejected"
COPIED = "c."

REJECTION = pa.struct([("reason", pa.string()), ("column", pa.string()), ("detail", pa.string())])

_NOTES = b"stx"


class Notes(TypedDict, total=False):
    """Values that a table carries beside its rows; each stage adds what it knows.

    Attributes:
        due: outputs, or models, that have texts to encode.
        rows_in: rows read, those that filters left out not counted.
        n_filtered: rows that filters left out.
        id_hash_in: `id_hash` of the rows read, in hex.
        seconds: spent, by stage.
        retries: storage calls made again until the table is written, by kind.
        run: by ``<output>.tokens``, ``.places`` and ``.fill``: the tokens that an encoder was
            given, the places of its batches, and what only filled packed batches up.
        prompt_lengths: tokens of the prompt, by output.
        leg: of retrieval.
        group: of corpus files that the leg searches.
        recall: of its approximate search, measured; None where it is exact.
    """

    due: list[str]
    rows_in: int
    n_filtered: int
    id_hash_in: str
    seconds: dict[str, float]
    retries: dict[str, int]
    run: dict[str, int]
    prompt_lengths: dict[str, int]
    leg: str
    group: int
    recall: float | None


def rejections(items: Sequence[tuple[str, str, str] | None]) -> pa.Array:
    """A rejection column from (reason, column, detail) of each row, None for good rows."""
    values = [
        None if item is None else dict(zip(REJECTION.names, item, strict=True)) for item in items
    ]
    return pa.array(values, REJECTION)


def reject(table: pa.Table, reason: str, column: str, detail: str) -> pa.Table:
    """The same rows, all of them rejected, without their texts."""
    columns = {
        TEXT: pa.nulls(table.num_rows, table.schema.field(TEXT).type),
        REJECTED: rejections([(reason, column, detail)] * table.num_rows),
    }
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    return table


def notes(table: pa.Table) -> Notes:
    """The notes that a table carries."""
    return cast(Notes, json.loads((table.schema.metadata or {}).get(_NOTES, b"{}")))


def with_notes(table: pa.Table, **values: Unpack[Notes]) -> pa.Table:
    """The same table with notes added."""
    return table.replace_schema_metadata({_NOTES: json.dumps(notes(table) | values)})


def with_retries(table: pa.Table) -> pa.Table:
    """The same table; calls of the store that this process made again are added to its notes."""
    counts = Counter(take_counts())
    if not counts:
        return table
    return with_notes(table, retries=counts + Counter(notes(table).get("retries", {})))


def is_encoded(table: pa.Table) -> bool:
    """True if no output has texts to encode."""
    return not notes(table)["due"]


def to_bytes(table: pa.Table) -> pa.Buffer:
    """A table, notes included, as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds that the block takes to ``seconds[name]``."""
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
