"""Records of finished units: a unit is done when a valid record exists, and not before.

Workers create one small JSON object per unit. The driver copies them into larger files as it goes
(folds them), so that a run of many units is read back in seconds. In memory they are Arrow tables:
some 600 bytes a unit, a third of that for a plan.
"""

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import partial
from itertools import count
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from stx_core import failpoints
from stx_core.store import clock
from stx_core.store.damage import names_one
from stx_core.store.files.create import create
from stx_core.store.files.filesystem import list_names, read_bytes, write_new
from stx_core.store.files.parallel import parallel
from stx_core.store.files.urls import join, redact
from stx_core.store.id_hash import HASH_MODULUS
from stx_core.store.schema import from_parquet, to_parquet
from stx_core.store.sealed import decode, is_whole, seal

logger = logging.getLogger(__name__)

# A fold has this many records, or those of a minute: what a killed driver leaves unfolded is read
# one by one.
_FOLD_RECORDS = 1000
_FOLD_S = 60.0
_FOLDS_AT_ONCE = 32


@dataclass(frozen=True)
class Record:
    """A finished unit of one output.

    Attributes:
        key: see `unit_key`.
        output: name of the output.
        url: the shard.
        identity: of the shard.
        start: first row of the shard.
        stop: behind the last row.
        file: data file relative to the dataset; empty when no row is left.
        quarantine_file: likewise; empty when no row was bad.
        rows_in: rows that passed the filters, bad ones counted: those written and quarantined.
        rows_filtered: rows that a filter left out.
        rows_out: rows whose results are in the file.
        rows_quarantined: rows in the quarantine file.
        reasons: quarantined rows by reason.
        id_hash_in: `id_hash` of the rows in, 32 hexadecimal digits.
        id_hash_out: of the rows out.
        id_hash_quarantined: of the rows quarantined.
        n_tokens: tokens that the encoder read.
        n_truncated: rows that were longer than the encoder reads.
        size: of the data file, bytes.
        checksum: of the data file's bytes, xxh3_128 in hex; empty when there is none.
        file_rows: rows of the data file: `rows_out`, unless a row in gives several or none.
        quarantine_size: of the quarantine file, bytes.
        quarantine_checksum: like `checksum`.
        seconds: duration by stage; what outputs of a unit share, in equal shares.
        run: the run that wrote it.
        epoch: the start of the run that wrote it.
        rows_carried: rows out whose vectors were taken from the snapshot before.
        tokens_carried: their share of `n_tokens`.
        quality: statistics of the rows out, as JSON values that those of other units can be added
            to; empty for outputs that are not judged.
        counts: what a report tells of its rows, as JSON values: numbers that add up over units.
    """

    key: str
    output: str
    url: str
    identity: str
    start: int
    stop: int
    file: str
    quarantine_file: str
    rows_in: int
    rows_filtered: int
    rows_out: int
    rows_quarantined: int
    reasons: dict[str, int]
    id_hash_in: str
    id_hash_out: str
    id_hash_quarantined: str
    n_tokens: int
    n_truncated: int
    size: int
    checksum: str
    file_rows: int
    quarantine_size: int
    quarantine_checksum: str
    seconds: dict[str, float]
    run: str
    epoch: int
    rows_carried: int = 0
    tokens_carried: int = 0
    quality: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)


_FIELDS = {item.name: item.type for item in fields(Record)}
# What was added later has a default: records of an earlier stx stay valid.
_NEEDED = {item.name for item in fields(Record) if item.default is item.default_factory is MISSING}
_ARROW: dict[object, pa.DataType] = {str: pa.string(), int: pa.int64()}
# Dictionaries, as JSON.
_TEXTS = [name for name, kind in _FIELDS.items() if kind not in _ARROW]

RECORDS = pa.schema(
    [pa.field(name, _ARROW.get(kind, pa.string())) for name, kind in _FIELDS.items()]
)
"""Records as a table, one row each; the dictionaries are JSON texts."""


def to_table(records: Sequence[Record]) -> pa.Table:
    """Records as a table, see `RECORDS`."""
    rows = [{name: getattr(item, name) for name in _FIELDS} for item in records]
    for row in rows:
        row.update({name: json.dumps(row[name]) for name in _TEXTS})
    return pa.Table.from_pylist(rows, schema=RECORDS)


def to_records(table: pa.Table) -> Iterator[Record]:
    """Give the rows of a table as records, a batch at a time."""
    for batch in table.to_batches(max_chunksize=_FOLD_RECORDS):
        for row in batch.to_pylist():
            yield Record(**row | {name: json.loads(row[name]) for name in _TEXTS})


def record(root: str, run: str, new: Record, damaged: Collection[str] = ()) -> Record:
    """Make a unit done; the first valid record wins.

    Args:
        root: the dataset.
        run: id of the run.
        new: what was done.
        damaged: files that are not what was written: records that name one count for nothing.

    Returns:
        The winner: the new record, or that of another attempt, whose file is then the one to use.

    Raises:
        ValueError: the counts or id hashes of the record do not add up.
        StoreError: from the store.
    """
    if problem := find_problem(new):
        raise ValueError(f"record of unit {new.key}: {problem}")
    failpoints.hit("ledger.before")
    for attempt in count():
        created = create(_url(root, run, new.key, attempt), seal(asdict(new)))
        winner = new if created.won else _parse(created.body, new.key, damaged)
        if winner is not None:
            failpoints.hit("ledger.after")
            return winner
        logger.warning("unit %s: record %d is damaged, writing the next", new.key, attempt)
    raise AssertionError("count() has no end")


def find(root: str, run: str, key: str, damaged: Collection[str] = ()) -> Record | None:
    """Read the valid record of a unit, None if it is not done; `damaged` as in `record`."""
    for attempt in count():
        url = _url(root, run, key, attempt)
        try:
            data = read_bytes(url)
        except FileNotFoundError:
            return None
        if recorded := _parse(decode(data), key, damaged):
            return recorded
        logger.warning("%s: damaged record ignored", redact(url))
    raise AssertionError("count() has no end")


def load(
    root: str, run: str, damaged: Collection[str] = (), schema: pa.Schema = RECORDS
) -> pa.Table:
    """Read the valid records of a run, one row per unit key.

    Args:
        root: the dataset.
        run: id of the run.
        damaged: as in `record`.
        schema: columns of `RECORDS` to read, ``key`` among them, and as which types; with
            ``damaged`` also those of `damage.NAMING`.
    """
    folded = _load_folds(root, run, schema)
    if damaged:
        folded = folded.filter(pc.invert(names_one(folded, damaged)))
    folder = join(root, "_stx/runs", run, "units")

    def unfolded(prefix: str) -> set[str]:
        # Folder by folder: the names of all would be as large as the records.
        recorded = {name.partition(".")[0] for name in list_names(join(folder, prefix))}
        in_fold = folded["key"].filter(pc.starts_with(folded["key"], prefix))
        return recorded.difference(in_fold.to_pylist())

    keys = sorted(set[str]().union(*parallel(unfolded, list_names(folder, "directory"))))
    tables = [folded]
    for start in range(0, len(keys), _FOLD_RECORDS):
        records = parallel(
            partial(find, root, run, damaged=damaged), keys[start : start + _FOLD_RECORDS]
        )
        table = to_table([item for item in records if item is not None])
        tables.append(table.select(schema.names).cast(schema))
    pa.default_memory_pool().release_unused()
    return pa.concat_tables(tables)


def _load_folds(root: str, run: str, schema: pa.Schema) -> pa.Table:
    folder, tables = join(root, "_stx/runs", run, "done"), [schema.empty_table()]
    urls = [join(folder, name) for name in list_names(folder)]
    for start in range(0, len(urls), _FOLDS_AT_ONCE):
        part = urls[start : start + _FOLDS_AT_ONCE]
        # Decoded in one thread: each of many would keep the memory that it took for that.
        folds = map(partial(_read_fold, schema=schema), part, parallel(read_bytes, part))
        # Small buffers, with room to grow, would take half as much again as what is in them.
        whole = pa.concat_tables([schema.empty_table(), *folds])
        tables.append(whole.combine_chunks())
        pa.default_memory_pool().release_unused()
    table = pa.concat_tables(tables)
    # Two starts may have folded the same record.
    keys = table["key"].unique()
    return table if len(keys) == len(table) else table.take(pc.index_in(keys, table["key"]))


def _read_fold(url: str, data: bytes, schema: pa.Schema) -> pa.Table:
    checksum = url.rpartition("-")[2].removesuffix(".parquet")
    if xxhash.xxh3_128_hexdigest(data) != checksum:
        logger.warning("%s: damaged, reading the records that it was made of", redact(url))
        return schema.empty_table()
    fold = from_parquet(data, schema.names)
    # Folds of an earlier stx lack columns; their records still exist one by one.
    if len(fold.column_names) < len(schema):
        return schema.empty_table()
    return fold.select(schema.names).cast(schema)


@dataclass
class Folds:
    """The records of one start as they come, folded into files of many.

    Attributes:
        root: the dataset.
        run: id of the run.
        epoch: of this start.
    """

    root: str
    run: str
    epoch: int
    _tables: list[pa.Table] = field(default_factory=lambda: [RECORDS.empty_table()])
    _new: list[Record] = field(default_factory=list)
    _since_s: float = field(default_factory=lambda: clock.monotonic())  # noqa: PLW0108  (of now)

    def add(self, item: Record) -> None:
        """Take a record that exists already.

        Raises:
            StoreError: a fold cannot be written.
        """
        self._new.append(item)
        if len(self._new) < _FOLD_RECORDS and clock.monotonic() - self._since_s < _FOLD_S:
            return
        table = to_table(self._new)
        data = to_parquet(table)
        sequence = len(self._tables)
        name = f"{self.epoch}-{sequence:06d}-{xxhash.xxh3_128_hexdigest(data)}.parquet"
        write_new(join(self.root, "_stx/runs", self.run, "done", name), data)
        self._tables.append(table)
        self._new, self._since_s = [], clock.monotonic()

    def table(self) -> pa.Table:
        """All records that were added, see `RECORDS`."""
        return pa.concat_tables([*self._tables, to_table(self._new)])


def find_problem(item: Record) -> str | None:
    """Say which counts or id hashes of a record contradict each other, if any."""
    if item.rows_in + item.rows_filtered != item.stop - item.start:
        return (
            f"{item.rows_in} rows in and {item.rows_filtered} filtered, but the unit has "
            f"{item.stop - item.start}"
        )
    if item.rows_in != item.rows_out + item.rows_quarantined:
        return (
            f"{item.rows_in} rows in, but {item.rows_out} out and "
            f"{item.rows_quarantined} quarantined"
        )
    if sum(item.reasons.values()) != item.rows_quarantined:
        return f"reasons {item.reasons}, but {item.rows_quarantined} rows quarantined"
    parts = int(item.id_hash_out, 16) + int(item.id_hash_quarantined, 16)
    if int(item.id_hash_in, 16) != parts % HASH_MODULUS:
        return "the ids written and quarantined are not the ids read"
    if bool(item.file) != bool(item.rows_out):
        return f"{item.rows_out} rows out, file {item.file!r}"
    if bool(item.quarantine_file) != bool(item.rows_quarantined):
        return f"{item.rows_quarantined} rows quarantined, file {item.quarantine_file!r}"
    return None


def _url(root: str, run: str, key: str, attempt: int) -> str:
    # Two characters of the key as a folder: object stores spread load over prefixes.
    return join(root, f"_stx/runs/{run}/units/{key[:2]}/{key}.{attempt}.json")


def _parse(body: Mapping[str, Any], key: str, damaged: Collection[str] = ()) -> Record | None:
    if not is_whole(body) or body.get("key") != key or not body.keys() >= _NEEDED:
        return None
    item = Record(**{name: body[name] for name in _FIELDS if name in body})
    if item.file in damaged or item.quarantine_file in damaged:
        return None
    return None if find_problem(item) else item
