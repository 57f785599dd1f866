"""The corpus: its shards, a sample of its texts, and the rows of a unit as the unit's table."""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipelines import unit_table
from pipelines.spec import Inputs, Output
from stx_core.errors import InputError
from stx_core.store.filesystem import file_info, list_files
from stx_core.store.readers import BadRow, Rows, ShardInfo, prune, read_rows, shard_rows
from stx_core.store.units import Unit

# Footers are small and far away: many at once.
_LISTING_THREADS = 32


def list_shards(inputs: Inputs) -> list[ShardInfo]:
    """The files of the corpus with their row counts, in the order of their names.

    Raises:
        InputError: nothing found, or a file or column that cannot be used.
    """
    conditions = filters(inputs)
    files = list(itertools.chain.from_iterable(list_files(path) for path in inputs.paths))
    if not files:
        raise InputError(f"{', '.join(inputs.paths)}: no files found; check inputs.path")
    taken = prune(files, conditions)
    with ThreadPoolExecutor(_LISTING_THREADS) as pool:
        return list(pool.map(lambda file: shard_rows(file, inputs.format, columns(inputs)), taken))


def filters(inputs: Inputs) -> list[tuple[str, str, object]]:
    """The spec's conditions as (column, operator, value)."""
    return [(item.column, item.op, item.value) for item in inputs.filter]


def columns(inputs: Inputs) -> list[str]:
    """All columns to read, each once, id first."""
    return list(dict.fromkeys([inputs.id_column, *inputs.text_columns, *inputs.columns]))


def sample_texts(shards: Sequence[ShardInfo], inputs: Inputs, n_rows: int) -> list[str]:
    """Texts of up to `n_rows` rows, from the starts of shards spread over the corpus."""
    filled = [shard for shard in shards if shard.n_rows]
    chosen = filled[:: max(1, len(filled) // 8)][:8]
    texts: list[str] = []
    for shard in chosen:
        share = -(-n_rows // len(chosen))
        rows = read_rows(shard, 0, min(share, shard.n_rows), columns(inputs), filters(inputs))
        texts += [text for text in _texts(rows.table, inputs).to_pylist() if text]
    return texts[:n_rows]


def read_unit(unit: Unit, inputs: Inputs, output: Output) -> tuple[pa.Table, int]:
    """The rows of a unit as its table, bad ones marked as rejected.

    Returns:
        The table, rows in the order of the shard, and the number of rows that the filter left out.

    Raises:
        InputError: the shard changed since it was planned, cannot be read, or has a bad row under
            ``on_bad_rows: fail``.
    """
    rows = read_rows(unit, unit.start, unit.stop, columns(inputs), filters(inputs))
    # Checked after reading: a file replaced while it was read shows as well.
    if (identity := file_info(unit.url).identity) != unit.identity:
        raise InputError(
            f"{unit.url}: changed since the run was planned (then {unit.identity}, now {identity});"
            " start the run again"
        )
    table = _good_rows(rows, inputs, output.empty_text == "quarantine")
    if rows.bad:
        bad = _bad_rows(rows.bad, table.schema)
        table = pa.concat_tables([table, bad]).sort_by(unit_table.ROW)
    if output.on_bad_rows == "fail":
        _refuse_rejected(unit, table)
    return table, rows.n_filtered


def _texts(table: pa.Table, inputs: Inputs) -> pa.ChunkedArray:
    """One text per row; several columns are joined, null where all of them are."""
    parts = [table.column(name).cast(pa.string()) for name in inputs.text_columns]
    if len(parts) == 1:
        return parts[0]
    joined = pc.binary_join_element_wise(*parts, inputs.text_separator, null_handling="skip")
    missing = pc.is_null(parts[0])
    for part in parts[1:]:
        missing = pc.and_(missing, pc.is_null(part))
    return pc.if_else(missing, pa.scalar(None, pa.string()), joined)


def _good_rows(rows: Rows, inputs: Inputs, refuse_empty: bool) -> pa.Table:
    ids = rows.table.column(inputs.id_column)
    texts = _texts(rows.table, inputs)
    checks = [
        (pc.is_null(texts), ("null_text", inputs.text_columns[0], "is null")),
        (pc.is_null(ids), ("null_id", inputs.id_column, "is null")),
    ]
    if refuse_empty:
        empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts), ""), False)
        checks.insert(0, (empty, ("empty_text", inputs.text_columns[0], "is empty")))
    found: list[tuple[str, str, str] | None] = [None] * rows.table.num_rows
    for mask, rejection in checks:
        for row in pc.indices_nonzero(mask).to_pylist():
            found[row] = rejection
    rejected = unit_table.rejections(found)
    texts = pc.if_else(rejected.is_null(), texts, pa.scalar(None, pa.string()))
    hashes = [None if text is None else _hash(text) for text in texts.to_pylist()]
    table = pa.table(
        {
            unit_table.ROW: rows.row_numbers,
            unit_table.ID: ids,
            unit_table.TEXT: texts,
            unit_table.HASH: pa.array(hashes, pa.string()),
            unit_table.REJECTED: rejected,
        }
    )
    for name in inputs.columns:
        table = table.append_column(unit_table.COPIED + name, rows.table.column(name))
    return table


def _hash(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode())


def _bad_rows(bad: Sequence[BadRow], schema: pa.Schema) -> pa.Table:
    """Rows that could not be parsed: a number and a reason, everything else null."""
    values = {
        unit_table.ROW: pa.array([row.row for row in bad], pa.int64()),
        unit_table.REJECTED: unit_table.rejections(
            [(row.reason, row.column, row.detail) for row in bad]
        ),
    }
    return pa.table(
        [values.get(field.name, pa.nulls(len(bad), field.type)) for field in schema], schema
    )


def _refuse_rejected(unit: Unit, table: pa.Table) -> None:
    rejected = table.column(unit_table.REJECTED).combine_chunks()
    rows = pc.indices_nonzero(rejected.is_valid())
    if len(rows):
        first = rejected[rows[0].as_py()].as_py()
        number = table.column(unit_table.ROW)[rows[0].as_py()].as_py()
        raise InputError(
            f"{unit.url} row {number}: column '{first['column']}' {first['detail']}; "
            "mend the row, or set output.on_bad_rows: quarantine"
        )
