"""Texts that stand in several units are encoded once: ``output.dedupe: corpus``.

A first pass over the due units notes the hashes of their texts, and no model runs. Texts whose hash
is in more than one unit are then encoded in the first of these, and written as files of the run.
The units proper find them there, the way they find rows of the snapshot before (see `carry`).
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.encoding import carry
from pipelines.running import stream, unit_table
from pipelines.running.runs import Start, finish_units, unit_name
from pipelines.spec.parts import Resources
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

Taken = dict[str, carry.Source]


def encode_repeated(
    start: Start,
    work: Sequence[stream.UnitDict],
    read: stream.Read,
    stage: stream.StageSpec,
    write: stream.Write,
    limits: Resources,
) -> pa.Table:
    """Encode the texts that stand in several of these units; records of the files they are in.

    Args:
        start: of the run.
        work: the due units, with ``unit`` and ``keys``.
        read: gives the table of a unit.
        stage: encodes it.
        write: writes it, under the keys of the description.
        limits: see `finish_units`.

    Raises:
        Stopped: a limit was reached; what is finished is kept.
    """
    folder = join(start.root, "_stx", "runs", start.claim.run)
    with scratch_space() as scratch:
        path = os.path.join(scratch, "repeated.arrow")
        build_index(folder, _note_hashes(folder, work, read, limits), path, repeated=True)
        url = publish_index(path, join(folder, "index"))
    sums = open_index(url).sums()
    some = [
        {**work[number], "keys": _keys(work[number]["keys"], total), "number": number}
        for number, total in sums.items()
    ]
    done = dict(zip(*(start.records[name].to_pylist() for name in ("key", "file")), strict=True))
    some = [each for each in some if not done.keys() >= set(each["keys"].values())]
    reader = partial(_read_firsts, read=read, index=url)
    fresh = finish_units(start, some, reader, [stage], write, limits, iter)
    keys = {key for n, total in sums.items() for key in _keys(work[n]["keys"], total).values()}
    records = pa.concat_tables([start.records, fresh])
    return records.filter(pc.is_in(records["key"], pa.array(sorted(keys), pa.string())))


def with_repeated(taken: Mapping[str, carry.Source], records: pa.Table, start: Start) -> Taken:
    """Sources that also have the files of `encode_repeated`.

    An output that is cut from a longer one has no use for them: its vectors cost nothing.
    """
    folder = join(start.root, "_stx", "runs", start.claim.run, "index")
    sources = dict(taken)
    for name in records["output"].unique().to_pylist():
        before = taken.get(name)
        if before is not None and before.output != name:
            continue
        mine = records.filter(pc.equal(records["output"], name))
        pairs = zip(mine["file"].to_pylist(), mine["checksum"].to_pylist(), strict=True)
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


def _note_hashes(
    folder: str, work: Sequence[stream.UnitDict], read: stream.Read, limits: Resources
) -> list[str]:
    """Write the hashes of each unit's texts; the files, in the order of the units."""
    numbered = [{**each, "number": number} for number, each in enumerate(work)]
    write = partial(_write_hashes, folder=folder)
    for _ in stream.run(numbered, read, [], write, limits.runner, name=unit_name):
        pass
    return [f"{_HASHES}/{number:08}.parquet" for number in range(len(work))]


def _write_hashes(description: Mapping[str, Any], table: pa.Table, folder: str) -> dict[str, Any]:
    left = pa.nulls(len(table), pa.bool_())
    for name in description["keys"]:
        wanted = carry.texts_to_encode(table, name).is_valid()
        left = pc.or_kleene(left, wanted)
    hashes = table.filter(left)[unit_table.HASH]
    data = to_parquet(pa.table({"content_hash": hashes}))
    write_over(join(folder, f"{_HASHES}/{description['number']:08}.parquet"), data)
    return {"records": [], "retries": unit_table.notes(table)["retries"]}


def _read_firsts(description: dict[str, Any], read: stream.Read, index: str) -> pa.Table:
    """The rows of a unit that are encoded for all units."""
    table = read(description)
    hashes = table[unit_table.HASH].combine_chunks()
    known = np.flatnonzero(hashes.is_valid().to_numpy(zero_copy_only=False))
    files, _ = open_index(index).find(to_hashes(hashes.drop_null()))
    mine = known[files == description["number"]]
    _, first = np.unique(to_hashes(hashes.take(pa.array(mine))), return_index=True)
    kept = table.take(pa.array(np.sort(mine[first])))
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
