"""Numbers of a unit's rows that add up over units: written with its record, read by the report."""

import json
from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import unit_table
from stx_core.histogram import Histogram, Lengths, Norms
from stx_core.store import clock
from stx_core.store.schema import dense_matrix

Kind = TypeVar("Kind", bound=Histogram)

TOKENS = "tokens"
NORMS = "norms"
ENTRIES = "entries"
FINISHED = "finished"
RUN_TOKENS = "run_tokens"
RUN_PLACES = "run_places"


def count_rows(good: pa.Table, output: str) -> dict[str, Any]:
    """Count the rows that an output of a unit gives.

    Args:
        good: the unit's table without rejected rows, complete.
        output: name of the output.

    Returns:
        JSON values: ``tokens`` (`Lengths` of the texts), ``norms`` (`Norms` of dense vectors) or
        ``entries`` (`Lengths`, non-zero numbers of sparse ones), ``finished`` (seconds since 1970
        by the clock of the writer), and where an encoder ran ``run_tokens`` and ``run_places``:
        the tokens that it was given, and the places of its batches, padding counted.
    """
    if not len(good):
        return {FINISHED: clock.now()}
    tokens = good.column(f"{output}.n_tokens").to_numpy()
    run = unit_table.notes(good).get("run", {})
    return {
        TOKENS: Lengths.of(tokens).to_json(),
        **_of_vectors(good.column(f"{output}.vector")),
        FINISHED: clock.now(),
        RUN_TOKENS: run.get(f"{output}.tokens", 0),
        RUN_PLACES: run.get(f"{output}.places", 0),
    }


def _of_vectors(vectors: pa.ChunkedArray) -> dict[str, Any]:
    if pa.types.is_struct(vectors.type):
        entries = pc.list_value_length(pc.struct_field(vectors, "indices"))
        return {ENTRIES: Lengths.of(entries.to_numpy()).to_json()}
    rows = dense_matrix(vectors).astype(np.float32, copy=False)
    return {NORMS: Norms.of(np.sqrt(np.einsum("nd,nd->n", rows, rows))).to_json()}


def read_counts(records: pa.Table) -> list[dict[str, Any]]:
    """What `count_rows` gave for each record; {} for those of other jobs and older versions."""
    return [json.loads(text) for text in records["counts"].to_pylist()]


def added_up(counts: list[dict[str, Any]], name: str, kind: type[Kind]) -> Kind:
    """One histogram of all units."""
    parts = (kind.from_json(each[name]) for each in counts if name in each)
    return reduce(add, parts, kind())


def padding(counts: list[Mapping[str, Any]] | list[dict[str, Any]]) -> float | None:
    """Share of the places of all batches that held no token; None where no encoder said."""
    tokens, places = (
        sum(each.get(name, 0) for each in counts) for name in (RUN_TOKENS, RUN_PLACES)
    )
    return 1 - tokens / places if places else None
