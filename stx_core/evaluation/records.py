"""Files of named columns, Parquet and JSONL, whatever their authors call the columns."""

import bisect
import json
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq

from stx_core.errors import InputError
from stx_core.evaluation.text_blocks import first_line, parse_blocks
from stx_core.store.files.filesystem import open_file
from stx_core.store.files.urls import redact

# Ours first, then those of BEIR, MTEB and the Hugging Face hub, then of TREC and MS MARCO tools.
NAMES: dict[str, tuple[str, ...]] = {
    "query_id": ("query_id", "query-id", "qid"),
    "doc_id": ("doc_id", "corpus-id", "corpus_id", "docid", "pid"),
    "doc_ids": ("doc_ids", "corpus-ids", "corpus_ids"),
    "rank": ("rank",),
    "score": ("score", "relevance"),
}
_BATCH_ROWS = 65_536

Convert = Callable[[pa.Table], pa.Table]


def read_parquet(url: str, convert_of: Callable[[list[str]], Convert]) -> Iterator[pa.Table]:
    """Read a Parquet file some rows at a time.

    Args:
        url: the file.
        convert_of: given the names of `NAMES` that the file has, gives what takes a table of these
            columns to the wanted ones, and raises `pa.ArrowInvalid` on a bad row.

    Raises:
        InputError: no Parquet file, or a row is bad; names it.
        FileNotFoundError: it is absent.
    """
    with open_file(url) as file:
        try:
            parquet = pq.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise InputError(f"{redact(url)}: no Parquet file ({error})") from None
        names = _names(parquet.schema_arrow)
        convert = convert_of(list(names.values()))
        n_read = 0
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=list(names)):
            # Columns come in the order of the file.
            table = pa.Table.from_batches([batch]).rename_columns(names)
            yield _converted(url, n_read, table, convert)
            n_read += len(table)


def _converted(url: str, n_before: int, table: pa.Table, convert: Convert) -> pa.Table:
    try:
        return convert(table)
    except pa.ArrowInvalid as error:
        problem = str(error)

    def fails(n_rows: int) -> bool:
        try:
            convert(table.slice(0, n_rows))
        except pa.ArrowInvalid:
            return True
        return False

    row = n_before + bisect.bisect_left(range(1, len(table) + 1), True, key=fails)
    raise InputError(f"{redact(url)} row {row}: {problem}; mend or remove the row")


def read_jsonl(url: str, convert_of: Callable[[list[str]], Convert]) -> Iterator[pa.Table]:
    """Read a file of JSON objects, one a line; as `read_parquet`.

    Types are those of the first object; another type further down is a bad line.
    """
    schema = _schema_of(url, first_line(url))
    names = _names(schema)
    convert = convert_of(list(names.values()))
    schema = pa.schema([schema.field(name) for name in names])
    options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")

    def parse(data: bytes) -> pa.Table:
        table = schema.empty_table()
        if data.strip():
            blocks = pa.json.ReadOptions(block_size=len(data) + 1)
            table = pa.json.read_json(pa.BufferReader(data), blocks, options)
        return convert(table.select(list(names)).rename_columns(names))

    fields = ", ".join(f'"{field.name}": {field.type}' for field in schema)
    yield from parse_blocks(url, parse, f"{{{fields}}}")


def _schema_of(url: str, line: bytes) -> pa.Schema:
    try:
        value: Any = json.loads(line) if line else {}
        schema = pa.Table.from_pylist([value]).schema
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{redact(url)}: the first line is no JSON object ({error}); name another format"
        ) from None
    # A whole number on the first line does not make the column whole numbers.
    return pa.schema(
        [
            field.with_type(pa.float64())
            if field.name in NAMES["score"] or pa.types.is_null(field.type)
            else field
            for field in schema
        ]
    )


def _names(schema: pa.Schema) -> dict[str, str]:
    """Our name by the file's name, for the columns that we know."""
    found = {}
    for ours, theirs in NAMES.items():
        name = next((name for name in theirs if name in schema.names), None)
        if name is not None:
            found[name] = ours
    return found


def ids(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Ids as strings.

    Raises:
        pa.ArrowInvalid: one is null or empty, or they are neither strings nor whole numbers.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    text = any(
        check(column.type)
        for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )
    if not text and not pa.types.is_integer(column.type):
        raise pa.ArrowInvalid(f"{name} is {column.type}, expected strings or whole numbers")
    column = column.cast(pa.string())
    if column.null_count or pc.any(pc.equal(column, "")).as_py():
        raise pa.ArrowInvalid(f"{name} is null or empty")
    return column


def numbers(column: pa.ChunkedArray, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    """Numbers of the wanted type.

    Raises:
        pa.ArrowInvalid: one is null, not a number, or does not fit the type.
    """
    if column.null_count:
        raise pa.ArrowInvalid(f"{name} is null")
    try:
        # Only whole numbers must be kept exactly.
        return column.cast(kind, safe=pa.types.is_integer(kind))
    except pa.ArrowNotImplementedError:
        raise pa.ArrowInvalid(f"{name} is {column.type}, expected {kind}") from None
