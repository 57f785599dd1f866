"""Units and what each output still needs of them, for jobs that read datasets of stx.

`encode` has a plan of its own, which knows of models and of rows that move. Here a unit is a row
range of a data file, and its key says all that decides its results.
"""

import hashlib
import time
import uuid
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.planning.plan import Held
from stx_core.store import ledger
from stx_core.store.corpus.units import Unit
from stx_core.store.data_file import NO_FILE, read_columns, write_table
from stx_core.store.files.urls import join
from stx_core.store.id_hash import HASH_MODULUS, id_hash
from stx_core.store.schema import QUARANTINE
from stx_core.store.sealed import canonical_json
from stx_core.store.snapshot import read_manifest


@dataclass(frozen=True)
class Work:
    """What a job wants, and what is missing of it.

    Attributes:
        root: the dataset to write.
        units: in the order of the result.
        keys: by output, one of each unit.
        facts: by output, what a snapshot remembers of it; ``fingerprint`` among them.
        schemas: by output, of its files.
        held: what exists already.
        lines: the plan in words.
        n_before: units that must be finished before those of `units`, see `retrieve`.
        rows_before: their rows.
    """

    root: str
    units: tuple[Unit, ...]
    keys: Mapping[str, tuple[str, ...]]
    facts: Mapping[str, Mapping[str, Any]]
    schemas: Mapping[str, pa.Schema]
    held: Held
    lines: tuple[str, ...] = ()
    n_before: int = 0
    rows_before: int = 0

    @cached_property
    def due(self) -> dict[int, dict[str, str]]:
        """Units to do: for each the keys of its missing outputs."""
        done = self.held.done
        work: dict[int, dict[str, str]] = {}
        for output, keys in self.keys.items():
            for index, key in enumerate(keys):
                if (output, key) not in self.held.carried and key not in done:
                    work.setdefault(index, {})[output] = key
        return dict(sorted(work.items()))

    @property
    def n_due(self) -> int:
        """Units to do, those before them counted."""
        return len(self.due) + self.n_before

    @property
    def n_due_rows(self) -> int:
        """Rows of these units."""
        return sum(self.units[index].n_rows for index in self.due) + self.rows_before

    @property
    def is_current(self) -> bool:
        """Whether the current snapshot is exactly this."""
        wanted = {(output, key) for output, keys in self.keys.items() for key in keys}
        prints = {name: facts["fingerprint"] for name, facts in self.facts.items()}
        same = {name: facts["fingerprint"] for name, facts in self.held.outputs.items()} == prints
        is_whole = wanted == self.held.carried and not self.held.damaged
        return self.held.version > 0 and same and is_whole

    @property
    def planned(self) -> dict[str, dict[str, Unit]]:
        """As `commit_snapshot` takes it."""
        return {
            output: dict(zip(keys, self.units, strict=True)) for output, keys in self.keys.items()
        }


class DataFile(NamedTuple):
    """A file of a snapshot: URL, checksum and rows."""

    url: str
    checksum: str
    rows: int


def snapshot_data(root: str, version: int, output: str) -> list[DataFile]:
    """The files of an output of one version, in corpus order; files without rows left out.

    Raises:
        StoreError: there is no such snapshot.
    """
    manifest = read_manifest(root, version)
    mine = manifest.filter(pc.equal(manifest["output"], output))
    columns = (mine[name].to_pylist() for name in ("file", "checksum", "file_rows"))
    rows = zip(*columns, strict=True)
    return [DataFile(join(root, name), *rest) for name, *rest in rows if rest[1]]


def take_unit(unit: Unit, columns: Sequence[str]) -> pa.Table:
    """Columns of the rows of a unit, from a file of a snapshot."""
    table = read_columns(unit.url, columns, np.arange(unit.start, unit.stop))
    return table.combine_chunks()


def digest(values: Any) -> str:  # noqa: ANN401  (JSON values)
    """SHA-256 of JSON values."""
    return hashlib.sha256(canonical_json(values)).hexdigest()


def files_digest(files: Sequence[DataFile]) -> str:
    """Hash of what files hold, in their order."""
    return digest([file.checksum for file in files])


class Lost(NamedTuple):
    """Rows of a unit that its output does not have.

    Attributes:
        rows: see `store.schema.QUARANTINE`.
        ids: (len(rows),) as those that `finish` is given.
        n_filtered: rows that were left out on purpose.
    """

    rows: pa.Table
    ids: pa.Array
    n_filtered: int


class Target(NamedTuple):
    """Where the units of one run go; `damaged` as in `ledger.record`."""

    root: str
    run: str
    epoch: int
    damaged: Collection[str] = ()


def finish(
    target: Target,
    unit: Unit,
    output: str,
    key: str,
    table: pa.Table,
    ids: pa.Array | pa.ChunkedArray,
    *,
    hashed: int | None = None,
    seconds: Mapping[str, float] = {},  # noqa: B006  (never changed)
    lost: Lost | None = None,
    n_tokens: int = 0,
    n_truncated: int = 0,
    counts: Mapping[str, Any] = {},  # noqa: B006  (never changed)
) -> ledger.Record:
    """Write the file of a unit whose rows may give several rows each, and make the unit done.

    Args:
        target: where to.
        unit: that was done.
        output: name of the output.
        key: of the unit for this output.
        table: rows of the file.
        ids: ids of the rows that were read, quarantined ones among them.
        hashed: their `id_hash`, where several outputs share it.
        seconds: by stage.
        lost: rows that were filtered out or are bad; None for none.
        n_tokens: that a model read.
        n_truncated: texts that were longer than it reads.
        counts: numbers that add up over units, see `pipelines.telemetry.unit_counts`.

    Returns:
        The record; that of another attempt where one was first.
    """
    began = time.perf_counter()
    lost = lost or Lost(QUARANTINE.empty_table(), ids.slice(0, 0), 0)
    stem = f"{key}-{target.run}-{target.epoch}-{uuid.uuid4().hex[:12]}.parquet"
    told = {"stx.output": output, "stx.run": target.run}
    n_out = len(ids) - len(lost.ids)
    written = write_table(target.root, f"data/{output}/{stem}", table, told) if n_out else NO_FILE
    bad = NO_FILE
    if len(lost.rows):
        bad = write_table(target.root, f"quarantine/{output}/{stem}", lost.rows, told)
    hashed = id_hash(ids) if hashed is None else hashed
    hashed_bad = id_hash(lost.ids)
    record = ledger.Record(
        key=key,
        output=output,
        url=unit.url,
        identity=unit.identity,
        start=unit.start,
        stop=unit.stop,
        file=written.name,
        quarantine_file=bad.name,
        rows_in=len(ids),
        rows_filtered=lost.n_filtered,
        rows_out=n_out,
        rows_quarantined=len(lost.rows),
        reasons=dict(Counter(lost.rows["reason"].to_pylist())),
        id_hash_in=f"{hashed:032x}",
        id_hash_out=f"{(hashed - hashed_bad) % HASH_MODULUS:032x}",
        id_hash_quarantined=f"{hashed_bad:032x}",
        n_tokens=n_tokens,
        n_truncated=n_truncated,
        size=written.size,
        checksum=written.checksum,
        file_rows=written.rows,
        quarantine_size=bad.size,
        quarantine_checksum=bad.checksum,
        seconds=dict(seconds) | {"write": time.perf_counter() - began},
        run=target.run,
        epoch=target.epoch,
        counts=dict(counts),
    )
    return ledger.record(target.root, target.run, record, target.damaged)
