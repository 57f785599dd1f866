"""Scope of a run: the whole corpus, or the shards of a backfill.

A scope is a set of whole shards. What it holds is brought up to date, at no cost for rows that did
not change; what it does not hold stays in the dataset as it is. So several backfills of different
partitions can run side by side, and unit keys are the same as in a run over everything.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.spec.encode import Backfill
from stx.pipelines.spec.parts import Inputs
from stx_core.errors import InputError, SpecError
from stx_core.store.corpus.filters import Filter, keep_file
from stx_core.store.corpus.readers import list_shards, read_rows
from stx_core.store.corpus.shards import CsvForm, Shard, partitions
from stx_core.store.corpus.units import plan_units

_THREADS = 8


@dataclass(frozen=True)
class Scope:
    """Whole shards, by condition and by name: every one, those of earlier snapshots too, if bare.

    Attributes:
        partitions: conditions on the hive partition columns of a shard's path.
        urls: the shards themselves; None for all that pass the conditions.
    """

    partitions: tuple[Filter, ...] = ()
    urls: frozenset[str] | None = None

    def keeps(self, url: str) -> bool:
        """True if a shard stays in the dataset as it is."""
        return not self.holds(url)

    def holds(self, url: str) -> bool:
        """True if a shard, of the corpus or of an earlier snapshot, is in it."""
        if self.urls is not None and url not in self.urls:
            return False
        columns = partitions(url)
        named = all(name in columns for name, _, _ in self.partitions)
        return named and keep_file(url, self.partitions)


def partition_filters(backfill: Backfill | None) -> tuple[Filter, ...]:
    """The spec's conditions on partitions as (column, operator, value)."""
    if backfill is None:
        return ()
    return tuple((item.column, item.op, item.value) for item in backfill.partitions)


def find_scope(
    backfill: Backfill | None, shards: Sequence[Shard], schema: pa.Schema, inputs: Inputs
) -> Scope:
    """Find the shards that a backfill is about.

    Args:
        backfill: None for the whole corpus.
        shards: of the corpus, already narrowed to `partition_filters`.
        schema: of the corpus.
        inputs: names the id column.

    Raises:
        SpecError: ids are given, but the corpus has no id column.
        InputError: the shards have no such partition, or no shard has one of the ids.
    """
    if backfill is None:
        return Scope()
    conditions = partition_filters(backfill)
    for name, _, _ in conditions:
        if not any(name in partitions(shard.url) for shard in shards):
            raise InputError(
                f"backfill.partitions: no shard of the corpus has a partition {name!r} that "
                f"passes; expected paths such as …/{name}=value/part-0.parquet"
            )
    if backfill.ids is None:
        return Scope(conditions)
    if inputs.id_column is None:
        raise SpecError("backfill.ids: the spec has inputs.id_column: null; name the id column")
    column = inputs.id_column
    ids = read_ids(backfill.ids, schema.field(column).type, column)

    def has_id(shard: Shard) -> bool:
        if not shard.n_rows:
            return False
        values = _column(shard, column, inputs.csv.form).cast(ids.type)
        return bool(pc.any(pc.is_in(values, value_set=ids)).as_py())

    with ThreadPoolExecutor(_THREADS) as pool:
        has_ids = list(pool.map(has_id, shards))
    urls = frozenset(shard.url for shard, has in zip(shards, has_ids, strict=True) if has)
    if not urls:
        raise InputError(f"backfill.ids: none of the {len(ids)} ids is in the corpus")
    return Scope(conditions, urls)


def read_ids(ids: str | Sequence[str | int], kind: pa.DataType, column: str) -> pa.Array:
    """Ids as an array.

    Args:
        ids: themselves, or the URL of a file with a column of them.
        kind: their type.
        column: of the file.

    Raises:
        InputError: the file has no such column, or ids of another type.
    """
    if not isinstance(ids, str):
        return _typed(pa.array(list(ids)), kind, "backfill.ids")
    parts = []
    for shard in list_shards([ids], columns=[column]):
        if column not in shard.schema.names:
            raise InputError(
                f"{shard.url}: no column {column!r} with ids; it has "
                f"{', '.join(shard.schema.names)}"
            )
        parts.append(_typed(_column(shard, column).combine_chunks(), kind, shard.url))
    return pa.concat_arrays(parts)


def _typed(ids: pa.Array, kind: pa.DataType, where: str) -> pa.Array:
    try:
        return ids.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{where}: ids are {ids.type}, those of the corpus {kind}") from error


def _column(
    shard: Shard,
    column: str,
    csv: CsvForm = CsvForm(),  # noqa: B008  (frozen)
) -> pa.ChunkedArray:
    """One column of a whole shard, without the rows that cannot be read."""
    schema = pa.schema([shard.schema.field(column)])
    units = plan_units([shard], 1 << 20)
    parts = [read_rows(unit, schema, csv=csv).table.column(column) for unit in units]
    return pa.chunked_array(
        [chunk for part in parts for chunk in part.chunks], schema.field(0).type
    )
