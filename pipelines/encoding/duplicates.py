"""Ids that occur more than once in what is about to be committed."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from pipelines.planning.plan import Held
from stx_core.store.files.filesystem import open_file
from stx_core.store.files.retries import retry
from stx_core.store.files.urls import join
from stx_core.store.snapshot import read_manifest

# 8 bytes an id: 32 MB at a time. More ids are looked at in several passes over the id columns.
_IDS_AT_ONCE = 4_000_000
_MAX_PASSES = 16
_EXAMPLES = 3


def find_duplicates(root: str, held: Held, keys: Iterable[str], records: pa.Table) -> list[str]:
    """Say in a line how many ids occur more than once, with examples; no line if none does.

    Memory is bounded: ids are compared by 64-bit hashes, a share of them at a time. Above
    64 million rows they are not compared, and the line says that.

    Args:
        root: the dataset.
        held: the current snapshot, whose files are carried over.
        keys: of the units of one output.
        records: finished units of this run, see `ledger.RECORDS`.
    """
    wanted = pa.array(keys, pa.string())
    rows = _files_of(records, wanted)
    carried = wanted.filter(pc.invert(pc.is_in(wanted, value_set=records["key"])))
    if len(carried):
        rows = pa.concat_tables([rows, _files_of(read_manifest(root, held.version), carried)])
    n_rows = pc.sum(rows["rows_out"]).as_py() or 0
    files = [file for file in rows["file"].unique().to_pylist() if file]
    passes = -(-n_rows // _IDS_AT_ONCE)
    if passes > _MAX_PASSES:
        return [f"{n_rows:,} rows are too many to look for ids that occur more than once"]
    repeated = np.concatenate(
        [np.empty(0, np.uint64), *(_repeated(root, files, passes, i) for i in range(passes))]
    )
    if not len(repeated):
        return []
    examples = ", ".join(_places(root, files, repeated[:_EXAMPLES]))
    return [
        f"{len(repeated):,} ids occur more than once, for example {examples}; remove the repeated "
        "rows from the input (output.duplicate_ids: fail refuses to commit them)"
    ]


def _files_of(rows: pa.Table, keys: pa.Array) -> pa.Table:
    return rows.filter(pc.is_in(rows["key"], value_set=keys)).select(["file", "rows_out"])


def _repeated(root: str, files: list[str], passes: int, share: int) -> np.ndarray:
    """Hashes that occur more than once among those that are `share` modulo `passes`."""
    parts = []
    for file in files:
        hashes = np.concatenate([hashes for _, hashes in _hashes(root, file)])
        parts.append(hashes[hashes % np.uint64(passes) == share])
    hashes, counts = np.unique(np.concatenate(parts), return_counts=True)
    return hashes[counts > 1]


def _places(root: str, files: list[str], wanted: np.ndarray) -> Iterator[str]:
    """The ids behind some hashes, each once."""
    left = set(wanted.tolist())
    for file in files:
        for ids, hashes in _hashes(root, file):
            for row in np.flatnonzero(np.isin(hashes, wanted)).tolist():
                if int(hashes[row]) in left:
                    left.discard(int(hashes[row]))
                    yield repr(ids[row].as_py())
        if not left:
            return


def _hashes(root: str, file: str) -> Iterator[tuple[pa.Array, np.ndarray]]:
    url = join(root, file)
    for batch in retry(lambda: _read_ids(url), url):
        ids = batch.column(0)
        values = ids.cast(pa.string()).cast(pa.binary()).to_pylist()
        yield ids, np.fromiter(map(xxhash.xxh3_64_intdigest, values), np.uint64, len(values))


def _read_ids(url: str) -> list[pa.RecordBatch]:
    with open_file(url) as source, pq.ParquetFile(source) as parquet:
        return list(parquet.iter_batches(columns=["id"]))
