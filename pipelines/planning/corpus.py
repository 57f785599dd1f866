"""The corpus: its shards, a sample of its texts, and the rows of a unit as the unit's table."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from stx.pipelines.planning.mapping import (
    columns_of_files,
    mapped_schema,
    schema_of_files,
    through_map,
)
from stx.pipelines.planning.scope import Scope, find_scope, partition_filters
from stx.pipelines.running import unit_table
from stx.pipelines.spec.encode import Backfill
from stx.pipelines.spec.parts import Inputs, Output
from stx_core.errors import InputError
from stx_core.store.corpus.columns import check_types, corpus_schema
from stx_core.store.corpus.filters import Filter
from stx_core.store.corpus.readers import list_shards, read_rows
from stx_core.store.corpus.shards import CsvForm, Rows, Shard
from stx_core.store.corpus.units import Unit, plan_units
from stx_core.store.digests import blake2b
from stx_core.store.files.filesystem import without_change_time
from stx_core.store.files.urls import redact
from stx_core.store.id_hash import id_hash

# That a map is tried on when a run is planned; of units whose rows no filter leaves.
_FIRST_ROWS, _FIRST_UNITS = 64, 16


@dataclass(frozen=True)
class Corpus:
    """The listed input.

    Attributes:
        shards: its files, sorted by URL.
        schema: id, text and copied columns, with the one type each has in all shards.
        scope: what the run speaks about; the shards are all of it.
    """

    shards: tuple[Shard, ...]
    schema: pa.Schema
    scope: Scope = Scope()


def list_corpus(inputs: Inputs, backfill: Backfill | None = None) -> Corpus:
    """Look into each file of the corpus, or of a part of it, and agree on the types of its columns.

    Raises:
        InputError: nothing is there, or a file or a column cannot be used.
        SpecError: the backfill does not fit the inputs.
    """
    conditions = [*filters(inputs), *partition_filters(backfill)]
    columns = [*_ids(inputs), *inputs.text_columns]
    shards = list_shards(
        inputs.paths,
        inputs.format,
        conditions,
        max_text_bytes=inputs.max_text_bytes,
        columns=[*columns, *inputs.columns, *inputs.map_columns],
        csv=inputs.csv.form,
    )
    if not any(shard.n_rows for shard in shards):
        schema = pa.schema([(name, pa.string()) for name in columns])
        # A backfill of an empty part says nothing about the other ones.
        return Corpus(tuple(shards), schema, find_scope(backfill, shards, schema, inputs))
    filled = [shard for shard in shards if shard.n_rows]
    for shard in filled:
        if both := [name for name in columns if name in shard.overridden]:
            raise InputError(
                f"{redact(shard.url)}: column {both[0]!r} stands in the file and in its path "
                f"(…/{both[0]}=…/), whose value would be that of all rows; rename the folder"
            )
    schema = schema_of(filled, inputs)
    check_types(schema, inputs.text_columns, inputs.id_column)
    scope = find_scope(backfill, shards, schema, inputs)
    return Corpus(tuple(shard for shard in shards if scope.holds(shard.url)), schema, scope)


def schema_of(shards: Sequence[Shard], inputs: Inputs) -> pa.Schema:
    """Columns of a corpus with the one type each has in all shards, see `mapping` for a map.

    Args:
        shards: with rows.
        inputs: names the columns.

    Raises:
        InputError: a shard lacks a column, types do not go together, or the map fails.
    """
    names = [*_ids(inputs), *inputs.text_columns, *inputs.columns]
    if inputs.map is None:
        return corpus_schema(shards, names, _ids(inputs))
    has = {name for shard in shards for name in shard.schema.names}
    of_files = corpus_schema(shards, columns_of_files(names, inputs, has), _ids(inputs))
    first_rows = of_files.empty_table()
    units = plan_units(shards, _FIRST_ROWS)
    for unit in units.take(range(len(units))[:_FIRST_UNITS]):
        rows = read_rows(unit, of_files, filters(inputs), None, *limits(inputs))
        if len(rows.table):
            first_rows = rows.table
            break
    return mapped_schema(of_files, inputs, first_rows)


def _ids(inputs: Inputs) -> list[str]:
    return [inputs.id_column] if inputs.id_column else []


def read_mapped(unit: Unit, schema: pa.Schema, inputs: Inputs) -> Rows:
    """The rows of a unit, through ``inputs.map`` where there is one.

    Raises:
        InputError: see `read_rows` and `through_map`.
    """
    columns = schema_of_files(schema)
    id_column = inputs.id_column if inputs.id_column in columns.names else None
    rows = read_rows(unit, columns, filters(inputs), id_column, *limits(inputs))
    where = f"{redact(unit.url)} rows {unit.start} to {unit.stop}"
    return through_map(rows, schema, inputs, where)


def priority(corpus: Corpus, order: str) -> dict[str, int]:
    """Ranks of shards by URL, the lowest comes first, for an order of `spec.Resources`.

    Shards of the same time, and those of stores that tell none, are ordered by name.
    """
    shards = sorted(corpus.shards, key=lambda shard: shard.url)
    if order != "corpus":
        shards.sort(
            key=lambda shard: (shard.modified_s or 0.0, shard.url), reverse=order == "newest"
        )
    return {shard.url: rank for rank, shard in enumerate(shards)}


def filters(inputs: Inputs) -> list[Filter]:
    """The spec's conditions as (column, operator, value)."""
    return [(item.column, item.op, item.value) for item in inputs.filter]


def limits(inputs: Inputs) -> tuple[int, CsvForm]:
    """The last arguments of `read_rows` and `read_some`."""
    return inputs.max_text_bytes, inputs.csv.form


def sample_texts(corpus: Corpus, inputs: Inputs, n_rows: int) -> list[str]:
    """Texts of up to `n_rows` rows, from the starts of shards spread over the corpus."""
    filled = [shard for shard in corpus.shards if shard.n_rows]
    chosen = filled[:: max(1, len(filled) // 8)][:8]
    texts: list[str] = []
    for shard in chosen:
        share = -(-n_rows // len(chosen))
        unit = next(iter(plan_units([shard], share)))
        rows = read_mapped(unit, corpus.schema, inputs)
        texts += [text for text in texts_of(rows.table, inputs).to_pylist() if text]
    return texts[:n_rows]


def read_unit(unit: Unit, schema: pa.Schema, inputs: Inputs, output: Output) -> pa.Table:
    """The rows of a unit as its table, bad ones marked as rejected, in the order of the shard.

    Raises:
        InputError: the shard changed since it was planned, cannot be read, or has a bad row under
            ``on_bad_rows: fail``.
    """
    seconds: dict[str, float] = {}
    with unit_table.timed(seconds, "read"):
        rows = read_mapped(unit, schema, inputs)
        table = _readable_rows(unit, rows, inputs, output.empty_text == "quarantine")
        if rows.bad:
            # Those that could not be parsed: number, id where it is known, and a reason.
            values = {
                unit_table.ROW: pa.array([bad.row for bad in rows.bad], pa.int64()),
                unit_table.ID: pa.array(
                    [bad.id for bad in rows.bad], table.schema.field(unit_table.ID).type
                ),
                unit_table.REJECTED: unit_table.rejections(
                    [(bad.reason, bad.column or "", bad.detail) for bad in rows.bad]
                ),
            }
            columns = [
                values.get(field.name, pa.nulls(len(rows.bad), field.type))
                for field in table.schema
            ]
            bad_rows = pa.table(columns, schema=table.schema)
            table = pa.concat_tables([table, bad_rows]).sort_by(unit_table.ROW)
    if output.on_bad_rows == "fail":
        rejected = table.column(unit_table.REJECTED).combine_chunks()
        places = pc.indices_nonzero(rejected.is_valid()).to_pylist()
        if places:
            first = rejected[places[0]].as_py()
            row = table.column(unit_table.ROW)[places[0]].as_py()
            raise InputError(
                f"{redact(unit.url)} row {row}: column '{first['column']}' {first['detail']}; "
                f"mend the row, or set output.on_bad_rows: quarantine ({len(places)} bad rows in "
                f"rows {unit.start} to {unit.stop})"
            )
    return unit_table.with_notes(
        table,
        seconds=seconds,
        rows_in=table.num_rows,
        n_filtered=rows.n_filtered,
        id_hash_in=f"{id_hash(table.column(unit_table.ID)):032x}",
    )


def texts_of(table: pa.Table, inputs: Inputs) -> pa.ChunkedArray:
    """One text per row: the columns that hold any, joined; null where all of them are null.

    Of several columns one that is null, empty or white space is left out, with its separator. Where
    all are, the text is the first that is not null.
    """
    columns = [table.column(name) for name in inputs.text_columns]
    if len(columns) == 1:
        return columns[0]
    texts, *more = (pc.if_else(_is_blank(column), None, column) for column in columns)
    for column in more:
        # Null where one side is. (null_handling="skip" of pyarrow 26 loses rows that are all null.)
        both = pc.binary_join_element_wise(texts, column, inputs.text_separator)
        texts = pc.coalesce(both, texts, column)
    return pc.coalesce(texts, *columns)


def _is_blank(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """(N,) bool, true where a text is empty or white space; false for null."""
    return pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts), ""), False)


def ids_of(unit: Unit, rows: Rows, inputs: Inputs) -> pa.ChunkedArray | pa.Array:
    """One id per row that was read: its column, or shard and row number where there is none."""
    if inputs.id_column:
        return rows.table.column(inputs.id_column)
    return pa.array([f"{unit.url}:{row}" for row in rows.row_numbers.tolist()], pa.string())


def _readable_rows(unit: Unit, rows: Rows, inputs: Inputs, refuse_empty: bool) -> pa.Table:
    ids, texts = ids_of(unit, rows, inputs), texts_of(rows.table, inputs)
    text_column = inputs.text_columns[0]
    checks = [
        (pc.is_null(texts), ("null_text", text_column, "is null")),
        (pc.is_null(ids), ("null_id", inputs.id_column or "", "is null")),
    ]
    if pa.types.is_string(ids.type):
        # Rankings, judgements and engines know no such document.
        no_id = pc.fill_null(pc.equal(ids, ""), False)
        checks.append((no_id, ("empty_id", inputs.id_column or "", "is empty")))
    if refuse_empty:
        checks.insert(0, (_is_blank(texts), ("empty_text", text_column, "is empty")))
    reasons: list[tuple[str, str, str] | None] = [None] * rows.table.num_rows
    for mask, rejection in checks:
        for row in pc.indices_nonzero(mask).to_pylist():
            reasons[row] = rejection
    rejected = unit_table.rejections(reasons)
    texts = pc.if_else(rejected.is_null(), texts, pa.scalar(None, pa.string()))
    table = pa.table(
        {
            unit_table.ROW: rows.row_numbers,
            unit_table.ID: ids,
            unit_table.TEXT: texts,
            unit_table.HASH: content_hashes(texts),
            unit_table.REJECTED: rejected,
        }
    )
    for name in inputs.columns:
        table = table.append_column(unit_table.COPIED + name, rows.table.column(name))
    return table


def with_held_identities(corpus: Corpus, dataset_shards: Collection[tuple[str, str]]) -> Corpus:
    """The same corpus; shards that an earlier stx knew by size and mtime are known by them still.

    So a dataset that it wrote is carried over by reference, not encoded again.

    Args:
        corpus: as listed.
        dataset_shards: by URL and identity.
    """
    shards = []
    for shard in corpus.shards:
        earlier = without_change_time(shard.identity)
        has_earlier = (shard.url, earlier) in dataset_shards
        if has_earlier and (shard.url, shard.identity) not in dataset_shards:
            shard = replace(shard, identity=earlier)
        shards.append(shard)
    return replace(corpus, shards=tuple(shards))


def content_hashes(texts: pa.ChunkedArray) -> pa.Array:
    """(N,) BLAKE2b of each text's UTF-8 bytes, 32 bytes in hex, null for null.

    Two texts have one hash by no accident and by nobody's will: who has the hash has the text.
    """
    values = texts.cast(pa.large_binary()).to_pylist()
    return pa.array(
        [None if value is None else blake2b(value).hex() for value in values], pa.string()
    )


def earlier_content_hashes(texts: pa.ChunkedArray) -> pa.Array:
    """(N,) the hashes of texts that earlier versions of stx wrote: 128-bit xxh3 in hex.

    Who can choose texts can make two with the same one: good for finding a row, no proof.
    """
    values = texts.cast(pa.large_binary()).to_pylist()
    return pa.array(
        [None if value is None else xxhash.xxh3_128_hexdigest(value) for value in values],
        pa.string(),
    )
