"""Files for ``COPY`` into PostgreSQL with pgvector."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from stx.pipelines.exports.feeds import write_lines
from stx.pipelines.exports.numbers_as_text import dense_text, lines, sparse_text
from stx.pipelines.exports.options import ExportOptions
from stx.pipelines.exports.payload import json_rows, to_json
from stx.pipelines.exports.vectors import Batch, Vectors, open_vectors, without_zeros
from stx_core.errors import InputError
from stx_core.store.schema import sparse_csr

# More than any tokenizer has tokens; pgvector compares sparse vectors of the same width only.
SPARSE_DIM = 1_000_000
# https://github.com/pgvector/pgvector#sparsevec-type
_MAX_NON_ZERO = 16_000

_MICROSECONDS = ("date", "time", "timestamp", "timestamptz", "interval")

_ESCAPES = (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"))


def write_pgvector(dataset: ds.FileSystemDataset, destination: str, options: ExportOptions) -> int:
    """Write files in the text form of ``COPY``, and ``create.sql``; gives the rows.

    float32 vectors are a vector, float16 ones a halfvec, sparse ones a sparsevec whose indices
    start at 1. ``id`` is the primary key: of ids that occur twice ``COPY`` takes none, and says
    which. See `write_parts`.

    Raises:
        InputError: a text holds a zero byte, or a sparse vector more than 16,000 weights.
    """
    vectors = open_vectors(dataset, options, "pgvector", "dense", "sparse")
    types = [_sql_type(field.type) for field in vectors.payload]

    def line(batch: Batch) -> bytes:
        copied = [
            piece
            for field, column, kind in zip(
                vectors.payload, batch.payload.columns, types, strict=True
            )
            for piece in ("\t", _column(column.combine_chunks(), kind, field.name))
        ]
        if vectors.kind == "dense":
            return lines(_escaped(batch.ids), *copied, "\t[", dense_text(batch), "]")
        offsets, indices, values = without_zeros(*sparse_csr(batch.vectors))
        counts = offsets[1:] - offsets[:-1]
        if counts.max(initial=0) > _MAX_NON_ZERO or indices.max(initial=0) >= SPARSE_DIM:
            name = batch.ids[int(counts.argmax())].as_py()
            raise InputError(
                f"id {name!r}: {counts.max()} weights, highest index {indices.max()}; pgvector "
                f"takes {_MAX_NON_ZERO} weights, and the column has {SPARSE_DIM} dimensions"
            )
        weights = sparse_text(offsets, pa.array(indices + 1).cast(pa.string()), values)
        return lines(_escaped(batch.ids), *copied, "\t{", weights, f"}}/{SPARSE_DIM}")

    create = _create(vectors, types, options.name or "documents")
    return write_lines(
        vectors, destination, line, ending=".copy", beside={"create.sql": create.encode()}
    )


def _create(vectors: Vectors, types: list[str], name: str) -> str:
    if vectors.kind == "sparse":
        vector = f"sparsevec({SPARSE_DIM})"
    else:
        vector = f"{'halfvec' if vectors.is_half else 'vector'}({vectors.dim})"
    names = (name, *(field.name for field in vectors.payload))
    table, *columns = ('"' + text.replace('"', '""') + '"' for text in names)
    copied = "".join(f", {c} {kind}" for c, kind in zip(columns, types, strict=True))
    return (
        "CREATE EXTENSION IF NOT EXISTS vector;\n"
        f"CREATE TABLE {table} (id text PRIMARY KEY{copied}, {vectors.column} {vector});\n"
    )


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind):
        return "numeric" if pa.types.is_uint64(kind) else "bigint"
    if pa.types.is_floating(kind):
        return "double precision"
    if pa.types.is_date(kind):
        return "date"
    if pa.types.is_timestamp(kind):
        return "timestamp" if kind.tz is None else "timestamptz"
    if pa.types.is_dictionary(kind):
        return _sql_type(kind.value_type)
    rarer_types = (
        (pa.types.is_string_view, "text"),
        (pa.types.is_null, "text"),
        (pa.types.is_decimal, "numeric"),
        (pa.types.is_time, "time"),
        (pa.types.is_duration, "interval"),
        (pa.types.is_binary, "bytea"),
        (pa.types.is_large_binary, "bytea"),
        (pa.types.is_binary_view, "bytea"),
        (pa.types.is_fixed_size_binary, "bytea"),
    )
    return next((name for is_kind, name in rarer_types if is_kind(kind)), "jsonb")


def _column(column: pa.Array, kind: str, name: str) -> pa.Array:
    r"""N values as text, ``\N`` for nulls.

    Raises:
        InputError: PostgreSQL cannot hold one; names the column.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if kind == "jsonb":
        values = [row[name] for row in json_rows(pa.table({name: column}))]
        try:
            texts = [None if value is None else to_json(value) for value in values]
        except (TypeError, ValueError) as error:
            raise InputError(
                f"a copied value cannot be written as JSON ({error}); leave it out with --columns"
            ) from None
        column = pa.array(texts, pa.string())
    elif kind == "bytea":
        values = column.to_pylist()
        column = pa.array([None if v is None else f"\\x{v.hex()}" for v in values], pa.string())
    elif kind in _MICROSECONDS:
        column = _times(column, kind, name)
    return pc.fill_null(_escaped(column.cast(pa.string())), "\\N")


def _times(column: pa.Array, kind: str, name: str) -> pa.Array:
    """Times in the units that PostgreSQL has: microseconds, or days."""
    try:
        if kind == "date":
            column = column.cast(pa.date32())
        elif kind == "time":
            column = column.cast(pa.time64("us"))
        elif kind == "interval":
            micros = column.cast(pa.duration("us")).cast(pa.int64())
            return pc.binary_join_element_wise(micros.cast(pa.string()), "microseconds", " ")
        else:
            column = column.cast(pa.timestamp("us", column.type.tz))
        values = column.to_pylist()
    except (pa.ArrowInvalid, OverflowError, ValueError) as error:
        raise InputError(
            f"column {name!r}: PostgreSQL has no {kind} for one of its values "
            f"({str(error).splitlines()[0]}); leave it out with --columns"
        ) from None
    return pa.array([None if v is None else v.isoformat() for v in values], pa.string())


def _escaped(column: pa.Array) -> pa.Array:
    """Text as https://www.postgresql.org/docs/current/sql-copy.html has it.

    Raises:
        InputError: it holds a zero byte, which PostgreSQL cannot store.
    """
    if pc.any(pc.match_substring(column, "\0")).as_py():
        row = pc.index(pc.match_substring(column, "\0"), True).as_py()
        raise InputError(f"{column[row].as_py()!r:.60}: PostgreSQL stores no zero bytes")
    for char, escape in _ESCAPES:
        column = pc.replace_substring(column, char, escape)
    return column
