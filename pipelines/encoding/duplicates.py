"""Ids that occur more than once in a snapshot that is about to be committed."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from stx.pipelines.encoding.plan import EncodePlan
from stx.pipelines.planning.dataset_state import DatasetState
from stx_core.errors import CommitConflict, DamagedFile, InputError
from stx_core.store import damage
from stx_core.store.data_file import read_columns
from stx_core.store.digests import blake2b
from stx_core.store.files.urls import join
from stx_core.store.snapshot import read_manifest

# 8 bytes an id: 32 MB at a time. More ids are looked at in several passes over the id columns.
_IDS_AT_ONCE = 4_000_000
_MAX_PASSES = 16
_EXAMPLES = 3

_COLUMNS = ("file", "rows_out")


def refuse_duplicates(plan: EncodePlan, records: pa.Table, when: str) -> list[str]:
    """Say in a line which ids occur more than once in what a plan gives, see `find_duplicates`.

    Args:
        plan: of the run.
        records: finished units of it.
        when: ``output.duplicate_ids``; "fail" refuses them.

    Raises:
        InputError: there are some, and they are refused.
        CommitConflict: a file is damaged.
    """
    name, first = next(iter(plan.parts.items()))
    staying = plan.state.kept.filter(pc.equal(plan.state.kept["output"], name))["key"]
    keys = pa.chunked_array([first.keys, *staying.chunks])
    warnings = find_duplicates(plan.root, plan.state, keys, records)
    if warnings and when == "fail":
        raise InputError(warnings[0])
    return warnings


def find_duplicates(
    root: str, state: DatasetState, keys: pa.ChunkedArray, records: pa.Table
) -> list[str]:
    """Say in a line how many ids occur more than once, with examples; no line if none does.

    Memory is bounded: ids are compared by 64-bit hashes, a share of them at a time; those whose
    hash occurs twice by hashes that nobody can forge. Above 64 million rows they are not compared,
    and the line says that.

    Args:
        root: the dataset.
        state: with the current snapshot, whose files are carried over.
        keys: of the units of one output.
        records: finished units of this run, see `ledger.RECORDS`.

    Raises:
        CommitConflict: a file is damaged; it is noted, and a new plan does its unit again.
    """
    rows = records.filter(pc.is_in(records["key"], value_set=keys)).select(_COLUMNS)
    carried = keys.filter(pc.invert(pc.is_in(keys, value_set=records["key"])))
    if len(carried):
        manifest = read_manifest(root, state.version)
        entries = manifest.filter(pc.is_in(manifest["key"], value_set=carried))
        rows = pa.concat_tables([rows, entries.select(_COLUMNS)])
    n_rows = pc.sum(rows["rows_out"]).as_py() or 0
    # Damaged files of units that a backfill does not speak about stay as they are.
    left_out = {"", *state.damaged_files}
    files = [file for file in rows["file"].unique().to_pylist() if file not in left_out]
    passes = -(-n_rows // _IDS_AT_ONCE)
    if passes > _MAX_PASSES:
        return [f"{n_rows:,} rows are too many to look for ids that occur more than once"]
    repeated = [np.empty(0, np.uint64)]
    for share in range(passes):
        parts = []
        for file in files:
            hashes = np.concatenate([hashes for _, hashes in _hashes(root, file)])
            parts.append(hashes[hashes % np.uint64(passes) == share])
        hashes, counts = np.unique(np.concatenate(parts), return_counts=True)
        repeated.append(hashes[counts > 1])
    n_ids, examples = _repeated_ids(root, files, np.concatenate(repeated))
    if not n_ids:
        return []
    return [
        f"{n_ids:,} ids occur more than once, for example {', '.join(map(repr, examples))}; "
        "remove the repeated rows from the input (output.duplicate_ids: fail refuses to commit "
        "them)"
    ]


def _repeated_ids(root: str, files: list[str], hashes: np.ndarray) -> tuple[int, list[str | int]]:
    """Number of ids with one of these hashes that do occur more than once, and some of them."""
    seen: Counter[bytes] = Counter()
    examples: list[str | int] = []
    for file in files if len(hashes) else []:
        for ids, hashes_of_ids in _hashes(root, file):
            for place in np.flatnonzero(np.isin(hashes_of_ids, hashes)).tolist():
                id_ = ids[place].as_py()
                seen[digest := blake2b(str(id_).encode())] += 1
                if seen[digest] == 2 and len(examples) < _EXAMPLES:
                    examples.append(id_)
    return sum(count > 1 for count in seen.values()), examples


def _hashes(root: str, file: str) -> Iterator[tuple[pa.Array, np.ndarray]]:
    try:
        column = read_columns(join(root, file), ["id"]).column(0)
    except DamagedFile as error:
        damage.note(root, file)
        raise CommitConflict(str(error)) from error
    for ids in column.chunks:
        values = ids.cast(pa.string()).cast(pa.binary()).to_pylist()
        yield ids, np.fromiter(map(xxhash.xxh3_64_intdigest, values), np.uint64, len(values))
