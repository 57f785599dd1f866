"""Files of named columns, Parquet and JSONL, whatever their authors call the columns."""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stx_core.errors import InputError
from stx_core.evaluation.text_blocks import parse_blocks, read_blocks, shortest_refused
from stx_core.store.corpus.json_scan import objects, read_json
from stx_core.store.corpus.json_types import Profile, type_of
from stx_core.store.corpus.parquet_file import open_parquet
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
# Counts of a `Profile` by kind of value.
_KINDS = ("strings", "ints", "floats", "lists", "objects", "bools")
_MAGIC, _ENCRYPTED_MAGIC = b"PAR1", b"PARE"

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
        if file.read(len(_MAGIC)) not in (_MAGIC, _ENCRYPTED_MAGIC):
            raise InputError(f"{redact(url)}: no Parquet file; name another format")
    with open_parquet(url) as source:
        names = _names(source.schema.names)
        convert = convert_of(list(names.values()))
        source.check_readable(list(names))
        n_read = 0
        for batch in source.open().iter_batches(_BATCH_ROWS, columns=list(names)):
            # Columns come in the order of the file.
            table = pa.Table.from_batches([batch]).rename_columns(names)
            try:
                converted = convert(table)
            except pa.ArrowInvalid as error:
                n, _ = shortest_refused(convert, table, str(error))
                raise InputError(
                    f"{redact(url)} row {n_read + n - 1}: {error}; mend or remove the row"
                ) from None
            yield converted
            n_read += len(table)


def read_jsonl(url: str, convert_of: Callable[[list[str]], Convert]) -> Iterator[pa.Table]:
    """Read a file of JSON objects, one a line; as `read_parquet`.

    Which columns there are is decided by the first megabytes. Other columns may hold anything.
    """
    first = next(read_blocks(url), None)
    if first is None:
        convert_of([])
        return
    types = _Types(url, first.data)
    convert = convert_of(list(types.names.values()))

    def parse(data: bytes) -> pa.Table:
        return convert(types.parse(data).select(list(types.names)).rename_columns(types.names))

    yield from parse_blocks(url, parse, types.expected)


class _Types:
    """The types of the columns that matter, widened block by block.

    Args:
        url: the file, for messages.
        first: lines that it begins with.
    """

    def __init__(self, url: str, first: bytes) -> None:
        rows = objects(first.split(b"\n"))
        if not rows:
            raise InputError(
                f"{redact(url)}: the first line is no JSON object; name another format, or write "
                "one object a line (of one array: jq -c '.[]')"
            )
        self._url = url
        self._profiles = _profiles(rows)
        keys = set(chain.from_iterable(rows))
        self.names = _names([name for name in chain.from_iterable(NAMES.values()) if name in keys])
        # A name that would win over one of these, or stand for a column that none of them is.
        self._absent = [
            name
            for aliases in NAMES.values()
            for name in itertools.takewhile(lambda name: name not in self.names, aliases)
        ]
        self._schema = self._types()
        fields = ", ".join(f'"{name}": {self._schema.field(name).type}' for name in self.names)
        self.expected = f"{{{fields}}}"  # a line as it should be, for messages

    def parse(self, data: bytes) -> pa.Table:
        """The columns of a block.

        Raises:
            InputError: a column appears that the first lines lack.
            pa.ArrowInvalid: a line is bad.
        """
        if not data.strip():
            return self._schema.empty_table()
        try:
            return read_json(data, self._schema)
        except pa.ArrowInvalid:
            rows = objects(data.split(b"\n"))
            for name in self._absent:
                if any(row.get(name) is not None for row in rows):
                    raise InputError(
                        f"{redact(self._url)}: a column {name!r} appears after lines without one; "
                        "give all lines the same columns"
                    ) from None
            before = self._schema
            for name, profile in _profiles(rows).items():
                total = copy.deepcopy(self._profiles[name])
                total.merge(profile)
                # An id is not a string here and a number there, nor are those of a list.
                values = total.items or total
                if sum(bool(getattr(values, kind)) for kind in _KINDS) <= 1:
                    self._profiles[name] = total
            self._schema = self._types()
            if self._schema.equals(before):
                raise
        return read_json(data, self._schema)

    def _types(self) -> pa.Schema:
        fields = []
        for name, column in self.names.items():
            profile = self._profiles[name]
            kind = type_of(profile, name, "number" if column == "score" else "id")
            if column == "score":
                # A whole number on the first lines does not make the column whole numbers.
                numbers = profile.ints + profile.floats
                kind = pa.string() if profile.strings > numbers else pa.float64()
            elif pa.types.is_list(kind) and pa.types.is_null(kind.value_type):
                kind = pa.list_(pa.string())
            elif pa.types.is_null(kind):
                kind = pa.string()
            fields.append((name, kind))
        return pa.schema([*fields, *((name, pa.null()) for name in self._absent)])


def _profiles(rows: Sequence[dict[str, Any]]) -> dict[str, Profile]:
    profiles = {name: Profile() for name in chain.from_iterable(NAMES.values())}
    for name, profile in profiles.items():
        profile.add([row.get(name) for row in rows])
    return profiles


def _names(columns: Sequence[str]) -> dict[str, str]:
    """Our name by the file's name, for the columns that we know."""
    names = {}
    for column, aliases in NAMES.items():
        name = next((alias for alias in aliases if alias in columns), None)
        if name is not None:
            names[name] = column
    return names


def ids(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Ids as strings.

    Raises:
        pa.ArrowInvalid: one is null, empty or no UTF-8, or they are neither strings nor whole
            numbers.
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
    # Parsers of JSON and Parquet believe that it is UTF-8.
    column.validate(full=True)
    if column.null_count or pc.any(pc.equal(column, "")).as_py():
        raise pa.ArrowInvalid(f"{name} is null or empty")
    return column


def numbers(
    column: pa.ChunkedArray, name: str, kind: pa.DataType, *, nulls: bool = False
) -> pa.ChunkedArray:
    """Numbers of a type.

    Raises:
        pa.ArrowInvalid: one is null, unless `nulls` are allowed, no number, or does not fit.
    """
    if column.null_count and not nulls:
        raise pa.ArrowInvalid(f"{name} is null")
    try:
        # Only whole numbers must be kept exactly.
        return column.cast(kind, safe=pa.types.is_integer(kind))
    except pa.ArrowNotImplementedError:
        raise pa.ArrowInvalid(f"{name} is {column.type}, expected {kind}") from None
