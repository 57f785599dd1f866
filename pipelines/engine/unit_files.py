"""Results of a unit as files of its dataset; its record in the ledger makes the unit done."""

import time
import uuid
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

from stx.pipelines.quality.statistics import StatisticsValues
from stx.pipelines.telemetry.unit_counts import UnitCounts
from stx_core.store import ledger
from stx_core.store.corpus.units import Unit
from stx_core.store.data_file import NO_FILE, write_table
from stx_core.store.id_hash import HASH_MODULUS, id_hash
from stx_core.store.schema import QUARANTINE


class Target(NamedTuple):
    """Place where the units of one start of a run go; `damaged` as in `ledger.record`."""

    root: str
    run: str
    epoch: int
    damaged: Collection[str] = ()


class IdSet(NamedTuple):
    """How many ids, and the hash of their multiset, see `id_hash`."""

    n: int
    hash: int

    @classmethod
    def of(cls, ids: pa.Array | pa.ChunkedArray) -> "IdSet":
        """Count and hash ids."""
        return cls(len(ids), id_hash(ids))

    def without(self, ids: "IdSet") -> "IdSet":
        """These ids, but for some that are among them."""
        return IdSet(self.n - ids.n, (self.hash - ids.hash) % HASH_MODULUS)


NO_IDS = IdSet(0, 0)


@dataclass(frozen=True, kw_only=True)
class UnitResult:
    """The result of a unit for one output.

    Attributes:
        output: its name.
        key: of the unit for it.
        rows: of its file; several, one or none for each id.
        ids_in: of the rows that were read, without those that were left out on purpose.
        ids_out: of the rows that it has.
        ids_quarantined: of the others.
        quarantined: these as rows, see `store.schema.QUARANTINE`.
        n_filtered: rows that were left out on purpose.
        n_tokens: that a model read.
        n_truncated: texts that were longer than it reads.
        rows_carried: rows that were taken from the snapshot before.
        tokens_carried: their tokens.
        quality: statistics; None for outputs that are not judged.
        counts: numbers that add up over units, see `telemetry.unit_counts`.
        metadata: of the file.
    """

    output: str
    key: str
    rows: pa.Table
    ids_in: IdSet
    ids_out: IdSet
    ids_quarantined: IdSet = NO_IDS
    quarantined: pa.Table = field(default_factory=QUARANTINE.empty_table)
    n_filtered: int = 0
    n_tokens: int = 0
    n_truncated: int = 0
    rows_carried: int = 0
    tokens_carried: int = 0
    quality: StatisticsValues | None = None
    counts: UnitCounts = field(default_factory=UnitCounts)
    metadata: Mapping[str, str] = field(default_factory=dict)


def write_result(
    target: Target, unit: Unit, result: UnitResult, seconds: Mapping[str, float]
) -> ledger.Record:
    """Write the files of a unit's output, then its record.

    A record that another attempt created first is taken; the files of this one stay behind unnamed.

    Args:
        target: where to.
        unit: that was done.
        result: of it.
        seconds: spent on it so far, by stage.
    """
    began = time.perf_counter()
    stem = f"{result.key}-{target.run}-{target.epoch}-{uuid.uuid4().hex[:12]}.parquet"
    metadata = {"stx.output": result.output, "stx.run": target.run, **result.metadata}
    written = quarantined = NO_FILE
    if result.ids_out.n:
        name = f"data/{result.output}/{stem}"
        written = write_table(target.root, name, result.rows, metadata)
    if len(result.quarantined):
        name = f"quarantine/{result.output}/{stem}"
        quarantined = write_table(target.root, name, result.quarantined, {})
    record = ledger.Record(
        key=result.key,
        output=result.output,
        url=unit.url,
        identity=unit.identity,
        start=unit.start,
        stop=unit.stop,
        file=written.name,
        quarantine_file=quarantined.name,
        rows_in=result.ids_in.n,
        rows_filtered=result.n_filtered,
        rows_out=result.ids_out.n,
        rows_quarantined=len(result.quarantined),
        reasons=dict(Counter(result.quarantined["reason"].to_pylist())),
        id_hash_in=f"{result.ids_in.hash:032x}",
        id_hash_out=f"{result.ids_out.hash:032x}",
        id_hash_quarantined=f"{result.ids_quarantined.hash:032x}",
        n_tokens=result.n_tokens,
        n_truncated=result.n_truncated,
        size=written.size,
        checksum=written.checksum,
        file_rows=written.rows,
        quarantine_size=quarantined.size,
        quarantine_checksum=quarantined.checksum,
        seconds=dict(seconds) | {"write": time.perf_counter() - began},
        run=target.run,
        epoch=target.epoch,
        rows_carried=result.rows_carried,
        tokens_carried=result.tokens_carried,
        quality=dict(result.quality or {}),
        counts=dict(result.counts),
    )
    return ledger.record(target.root, target.run, record, target.damaged)
