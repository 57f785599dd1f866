"""Texts that stand in several units are encoded once: ``output.dedupe: corpus``.

A first pass over the due units notes the hashes of their texts, and no model runs. Texts whose hash
is in more than one unit are then encoded in the first of these, and written as files of the run.
The units proper find them there, the way they find rows of the snapshot before (see `carry`).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.encoding import carry
from stx.pipelines.engine.job import Pass, Read
from stx.pipelines.engine.runs import Start
from stx.pipelines.engine.unit_files import UnitResult
from stx.pipelines.planning.plan import UnitDict
from stx.pipelines.running import unit_table
from stx_core.store.corpus.units import Unit
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

_HASHES = "hashes"


def hash_pass(units: Sequence[UnitDict], read: Read, start: Start) -> Pass:
    """Write the hashes of each unit's texts, for `index_repeated`.

    Args:
        units: the due units, with ``unit`` and ``keys``.
        read: gives the table of a unit.
        start: of the run.
    """
    numbered = [{**unit, "number": number} for number, unit in enumerate(units)]
    return Pass(numbered, read, [], partial(_write_hashes, folder=_folder(start)), limited=False)


def index_repeated(start: Start, n_units: int) -> str:
    """Index the hashes that stand in several units; where the workers find it."""
    folder = _folder(start)
    files = [_hash_file(number) for number in range(n_units)]
    with scratch_space() as scratch:
        path = os.path.join(scratch, "repeated.arrow")
        build_index(folder, files, path, repeated=True)
        return publish_index(path, join(folder, "index"))


def repeated_units(units: Sequence[UnitDict], index: str) -> list[UnitDict]:
    """The units that encode texts for others too, with keys that say which texts these are."""
    sums = open_index(index).sums()
    return [
        {**units[number], "keys": _keys(units[number]["keys"], total), "number": number}
        for number, total in sums.items()
    ]


def read_repeated(description: UnitDict, unit: Unit, *, read: Read, index: str) -> pa.Table:
    """The rows of a unit that are encoded for all units."""
    table = read(description, unit)
    hashes = table[unit_table.HASH].combine_chunks()
    hashed = np.flatnonzero(hashes.is_valid().to_numpy(zero_copy_only=False))
    files, _ = open_index(index).find(to_hashes(hashes.drop_null()))
    own = hashed[files == description["number"]]
    _, first = np.unique(to_hashes(hashes.take(pa.array(own))), return_index=True)
    kept = table.take(pa.array(np.sort(own[first])))
    notes = unit_table.notes(table)
    ids = kept[unit_table.ID]
    due = [n for n in description["keys"] if carry.texts_to_encode(kept, n).null_count < len(kept)]
    return unit_table.with_notes(
        kept,
        due=due,
        rows_in=len(kept),
        n_filtered=notes["rows_in"] + notes["n_filtered"] - len(kept),
        id_hash_in=f"{id_hash(ids):032x}",
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


def _keys(keys: Mapping[str, str], total: int) -> dict[str, str]:
    """Keys of the file with a unit's repeated texts: they say which texts these are."""
    return {
        name: blake2b(f"{key} repeated {total}".encode()).hex()[:32] for name, key in keys.items()
    }


def _folder(start: Start) -> str:
    return join(start.root, "_stx", "runs", start.claim.run)


def _hash_file(number: int) -> str:
    return f"{_HASHES}/{number:08}.parquet"


def _write_hashes(
    description: UnitDict,
    unit: Unit,
    table: pa.Table,
    *,
    folder: str,  # noqa: ARG001
) -> Iterator[UnitResult]:
    due = pa.nulls(len(table), pa.bool_())
    for name in description["keys"]:
        due = pc.or_kleene(due, carry.texts_to_encode(table, name).is_valid())
    hashes = table.filter(due)[unit_table.HASH]
    data = to_parquet(pa.table({"content_hash": hashes}))
    write_over(join(folder, _hash_file(description["number"])), data)
    return iter(())
