"""Copied times as microseconds where that loses nothing: Spark refuses files with nanoseconds."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pyarrow as pa

from stx.pipelines.planning.corpus import Corpus
from stx.pipelines.spec.parts import Inputs
from stx_core.store.corpus.nested import with_leaves
from stx_core.store.corpus.readers import read_rows
from stx_core.store.corpus.units import Unit, plan_units

# One column of times is 8 bytes a row.
_ROWS_AT_ONCE = 1 << 18
_THREADS = 8


def in_microseconds(
    corpus: Corpus, inputs: Inputs, before: Mapping[str, pa.Schema]
) -> tuple[Corpus, tuple[str, ...]]:
    """Settle the types of copied columns with nanoseconds.

    Their values are looked through. A dataset that has a column in nanoseconds keeps it so: its
    files stay as they are.

    Args:
        corpus: as it was listed.
        inputs: which columns are copied.
        before: schemas of the outputs that there are.

    Returns:
        The corpus with its types, and a line for the plan of each column that keeps nanoseconds.
    """
    schema, notes = corpus.schema, []
    if inputs.map is not None:
        return corpus, ()  # types are what the function says
    for name in (name for name in inputs.columns if name in schema.names):
        field = schema.field(name)
        kind = with_leaves(field.type, _micros)
        if kind == field.type:
            continue
        has_nanos = any(
            name in old.names and old.field(name).type == field.type for old in before.values()
        )
        if not has_nanos and _fits(corpus, name, kind, inputs):
            schema = schema.set(schema.get_field_index(name), pa.field(name, kind))
        else:
            why = "the dataset has it so" if has_nanos else "some of its times need them"
            notes.append(
                f"column {name!r} stays {field.type}, {why}; Spark does not read files with "
                "nanoseconds"
            )
    return replace(corpus, schema=schema), tuple(notes)


def _micros(kind: Any) -> Any:  # noqa: ANN401  (pyarrow DataTypes)
    is_nanos = pa.types.is_timestamp(kind) and kind.unit == "ns"
    return pa.timestamp("us", kind.tz) if is_nanos else kind


def _fits(corpus: Corpus, name: str, kind: Any, inputs: Inputs) -> bool:  # noqa: ANN401
    """True if all values of a column are the same in another type."""
    schema = pa.schema([corpus.schema.field(name)])

    def same(unit: Unit) -> bool:
        column = read_rows(unit, schema, max_text_bytes=inputs.max_text_bytes).table.column(name)
        try:
            column.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return False
        return True

    units = list(plan_units(corpus.shards, _ROWS_AT_ONCE))
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(units), _THREADS):
            if not all(pool.map(same, units[start : start + _THREADS])):
                return False
    return True
