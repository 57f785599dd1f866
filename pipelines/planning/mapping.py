"""Rows through a function that the spec names, ``inputs.map``, before anything else sees them.

The function gets a table of the rows of a unit and gives one with a row for each of them, in order,
with their ids: what it may change are texts and copied columns, and it may add such. A schema that
was made for a map remembers, in its metadata, which columns the function adds, and the hash of its
source: every machine checks that it runs the same.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import cast

import pyarrow as pa

from stx.pipelines.spec.parts import Inputs
from stx_core.errors import InputError, SpecError
from stx_core.plugins import foreign_code, load, source_hash
from stx_core.store.corpus.columns import plain_type
from stx_core.store.corpus.select_rows import reject_large
from stx_core.store.corpus.shards import Rows

MapFunction = Callable[[pa.Table], pa.Table]

_KEY = b"stx.map"


@dataclass(frozen=True)
class _Remembered:
    """Notes of a schema that was made for a map.

    Attributes:
        source: hash of the source of the function's module.
        added: columns that the files do not have.
        dropped: columns that only the function sees.
    """

    source: str
    added: tuple[str, ...]
    dropped: tuple[str, ...]


def map_code(inputs: Inputs) -> tuple[str, ...]:
    """Hash of the source of the module of ``inputs.map``; () without one. Part of unit keys.

    Raises:
        SpecError: it cannot be imported or read, or was edited after it was imported.
    """
    if inputs.map is None:
        return ()
    place = inputs.map
    function = _function(place)
    now = source_hash(sys.modules[place.partition(":")[0]])
    if _source_when_first_used(place, function) != now:
        raise SpecError(
            f"inputs.map: the module of {place} was edited after it was imported; start again, or "
            "reload it"
        )
    return (now,)


@lru_cache(maxsize=64)
def _source_when_first_used(place: str, function: MapFunction) -> str:  # noqa: ARG001
    """A module that was loaded anew has another function."""
    return source_hash(sys.modules[place.partition(":")[0]])


def mapped_schema(of_files: pa.Schema, inputs: Inputs, first_rows: pa.Table) -> pa.Schema:
    """Columns of the files, then those that the function adds, with the types they have first.

    Args:
        of_files: columns that are read.
        inputs: with a map.
        first_rows: of the corpus, in that schema.

    Raises:
        InputError: the function fails, or leaves a column out.
    """
    (source,) = map_code(inputs)
    result = _called(inputs, first_rows, "the first rows")
    needed = dict.fromkeys([*inputs.text_columns, *inputs.columns])
    added = [name for name in needed if name not in of_files.names]
    fields = []
    for name in added:
        kind = plain_type(_column(result, name, inputs, "the first rows").type)
        if pa.types.is_null(kind):
            raise InputError(
                f"inputs.map {inputs.map}: column {name!r} is null in the first rows, so nobody "
                "knows its type; give it one"
            )
        fields.append(pa.field(name, kind))
    dropped = set(of_files.names) - {*needed, inputs.id_column}
    notes = _Remembered(source, tuple(added), tuple(sorted(dropped)))
    return pa.schema([*of_files, *fields], metadata={_KEY: json.dumps(asdict(notes)).encode()})


def schema_of_files(schema: pa.Schema) -> pa.Schema:
    """The columns of a schema that are read: all but those that a function adds."""
    added = _remembered(schema).added if _KEY in (schema.metadata or {}) else ()
    return pa.schema([field for field in schema if field.name not in added])


def through_map(rows: Rows, schema: pa.Schema, inputs: Inputs, where: str) -> Rows:
    """The rows as the function gives them; themselves without ``inputs.map``.

    Args:
        rows: as `schema_of_files` reads them.
        schema: of the corpus.
        inputs: of the spec.
        where: file and rows, for messages.

    Raises:
        InputError: the function fails, or what it gives does not have these rows or these types.
        SpecError: it is another one here than where the run was planned.
    """
    if inputs.map is None:
        return rows
    notes = _remembered(schema)
    if map_code(inputs) != (notes.source,):
        raise SpecError(
            f"inputs.map: the module of {inputs.map} is another one on this machine than where the "
            "run was planned; give all machines the same"
        )
    result_schema = pa.schema([field for field in schema if field.name not in notes.dropped])
    if not len(rows.table):
        return replace(rows, table=result_schema.empty_table())
    result = _called(inputs, rows.table, where)
    columns = {
        field.name: _cast(_column(result, field.name, inputs, where), field, inputs, where)
        for field in result_schema
    }
    if inputs.id_column and not columns[inputs.id_column].equals(rows.table[inputs.id_column]):
        raise InputError(
            f"{where}: inputs.map {inputs.map}: column {inputs.id_column!r} has other ids, or in "
            "another order; give one row for each row, in order"
        )
    table = pa.table(columns)
    return reject_large(replace(rows, table=table), inputs.id_column, inputs.max_text_bytes)


def _function(place: str) -> MapFunction:
    advice = (
        "it has to be installed on every machine that reads, or lie in a folder of PYTHONPATH with "
        "its whole path; the folder that a command is started in is not looked into"
    )
    function = load(place, "inputs.map", advice)
    if not callable(function):
        raise SpecError(f"inputs.map: {place} is a {type(function).__name__}, not a function")
    return cast(MapFunction, function)


def _called(inputs: Inputs, table: pa.Table, where: str) -> pa.Table:
    place = str(inputs.map)
    where = f"{where}: inputs.map {place}"
    with foreign_code(where):
        result = _function(place)(table)
    if not isinstance(result, pa.Table):
        raise InputError(f"{where} gave a {type(result).__name__}, not a pyarrow.Table")
    if len(result) != len(table):
        raise InputError(
            f"{where} gave {len(result)} rows for {len(table)}; give one row for each row, in "
            "order: a null text goes to quarantine, `filter` leaves rows out"
        )
    return result


def _column(table: pa.Table, name: str, inputs: Inputs, where: str) -> pa.ChunkedArray:
    if (n := table.column_names.count(name)) != 1:
        raise InputError(
            f"{where}: inputs.map {inputs.map} gave {n or 'no'} columns {name!r}; it gave "
            f"{', '.join(table.column_names)}"
        )
    return table.column(name)


def _cast(column: pa.ChunkedArray, field: pa.Field, inputs: Inputs, where: str) -> pa.ChunkedArray:
    try:
        return column if column.type == field.type else column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"{where}: inputs.map {inputs.map}: column {field.name!r} is {column.type}, not "
            f"{field.type} as in the plan; give it that type ({error})"
        ) from error


def columns_of_files(names: Sequence[str], inputs: Inputs, has: set[str]) -> list[str]:
    """Columns to read, of those that a spec names: the others are for the function to add."""
    in_files = [name for name in names if name in has or name == inputs.id_column]
    return [*in_files, *inputs.map_columns]


def _remembered(schema: pa.Schema) -> _Remembered:
    values = json.loads(schema.metadata[_KEY])
    return _Remembered(values["source"], tuple(values["added"]), tuple(values["dropped"]))
