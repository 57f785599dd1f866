"""Texts that stand in several units are encoded once: ``output.dedupe: corpus``.

A first pass over the due units notes the hashes of their texts, and no model runs. Texts whose hash
is in more than one unit are then encoded in the first of these, and written as files of the run.
The units proper find them there, the way they find rows of the snapshot before (see `carry`).
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.encoding import carry
from stx.pipelines.engine.passes import Pass
from stx.pipelines.engine.runs import Start
from stx.pipelines.engine.unit_files import UnitResult
from stx.pipelines.planning.plan import DueUnit
from stx.pipelines.running import unit_table
from stx.pipelines.running.lazy import Mapped
from stx_core.store.digests import blake2b
from stx_core.store.files.filesystem import write_over
from stx_core.store.files.local_disk import scratch_space
from stx_core.store.files.urls import join
from stx_core.store.hash_index import (
    build_index,
    named,
    open_index,
    publish_index,
    to_hashes,
)
from stx_core.store.id_hash import id_hash
from stx_core.store.schema import to_parquet

_HASH_FILE = "hashes/{:08}.parquet"

Read = Callable[[DueUnit], pa.Table]


@dataclass(frozen=True)
class NumberedUnit(DueUnit):
    """A due unit with its position among them, which names the file of its hashes."""

    number: int


def hash_pass(units: Sequence[DueUnit], read: Read, start: Start) -> Pass[NumberedUnit]:
    """Write the hashes of each unit's texts, for `index_repeated`.

    Args:
        units: the due units.
        read: gives the table of a unit.
        start: of the run.
    """
    numbered = Mapped(units, lambda number, due: NumberedUnit(due.unit, due.keys, number))
    return Pass(numbered, read, [], partial(_write_hashes, folder=_folder(start)), limited=False)


def index_repeated(start: Start, n_units: int) -> str:
    """Index the hashes that stand in several units; where the workers find it."""
    folder = _folder(start)
    files = [_HASH_FILE.format(number) for number in range(n_units)]
    with scratch_space() as scratch:
        path = os.path.join(scratch, "repeated.arrow")
        build_index(folder, files, path, repeated=True)
        return publish_index(path, join(folder, "index"))


def repeated_units(units: Sequence[DueUnit], index: str) -> list[NumberedUnit]:
    """The units that encode texts for others too, with keys that say which texts these are."""
    firsts = []
    for number, total in open_index(index).sums().items():
        due = units[number]
        keys = {
            name: blake2b(f"{key} repeated {total}".encode()).hex()[:32]
            for name, key in due.keys.items()
        }
        firsts.append(NumberedUnit(due.unit, keys, number))
    return firsts


def read_repeated(due: NumberedUnit, *, read: Read, index: str) -> pa.Table:
    """The rows of a unit that are encoded for all units."""
    table = read(due)
    hashes = table[unit_table.HASH].combine_chunks()
    hashed = np.flatnonzero(hashes.is_valid().to_numpy(zero_copy_only=False))
    files, _ = open_index(index).find(to_hashes(hashes.drop_null()))
    own = hashed[files == due.number]
    _, first = np.unique(to_hashes(hashes.take(pa.array(own))), return_index=True)
    firsts = table.take(pa.array(np.sort(own[first])))
    notes = unit_table.notes(table)
    n_rows = len(firsts)
    return unit_table.with_notes(
        firsts,
        due=[n for n in due.keys if carry.texts_to_encode(firsts, n).null_count < n_rows],
        rows_in=n_rows,
        n_filtered=notes["rows_in"] + notes["n_filtered"] - n_rows,
        id_hash_in=f"{id_hash(firsts[unit_table.ID]):032x}",
    )


def with_repeated(
    taken: Mapping[str, carry.Source], records: pa.Table, start: Start
) -> dict[str, carry.Source]:
    """Sources that also have the files of `read_repeated`.

    An output that is cut from a longer one has no use for them: its vectors cost nothing.
    """
    folder = join(_folder(start), "index")
    sources = dict(taken)
    for name in records["output"].unique().to_pylist():
        before = taken.get(name)
        if before is not None and before.output != name:
            continue
        rows = records.filter(pc.equal(records["output"], name))
        pairs = zip(rows["file"].to_pylist(), rows["checksum"].to_pylist(), strict=True)
        files = [named(*pair) for pair in pairs if pair[0]]
        if before is not None:
            files = [*open_index(before.index).files, *files]
        with scratch_space() as scratch:
            path = os.path.join(scratch, "index.arrow")
            build_index(start.root, files, path)
            sources[name] = carry.Source(name, index=publish_index(path, folder))
    return sources


def _folder(start: Start) -> str:
    return join(start.root, "_stx", "runs", start.claim.run)


def _write_hashes(due: NumberedUnit, table: pa.Table, *, folder: str) -> Iterator[UnitResult]:
    """No results: the hashes of the texts that an output needs go into a file of their own."""
    to_encode = pa.nulls(len(table), pa.bool_())
    for name in due.keys:
        to_encode = pc.or_kleene(to_encode, carry.texts_to_encode(table, name).is_valid())
    hashes = table.filter(to_encode)[unit_table.HASH]
    data = to_parquet(pa.table({"content_hash": hashes}))
    write_over(join(folder, _HASH_FILE.format(due.number)), data)
    return iter(())
