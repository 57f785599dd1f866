"""A snapshot without some of its rows: their files written again, its manifest and totals."""

import json
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stx_core.store.damage import names_one
from stx_core.store.data_file import NO_FILE, Written, open_parquet, write_table
from stx_core.store.files.parallel import parallel
from stx_core.store.files.retries import retry
from stx_core.store.files.urls import join
from stx_core.store.id_hash import HASH_MODULUS, id_hash
from stx_core.store.log import Claim
from stx_core.store.log_state import Content, OutputFacts, Snapshot
from stx_core.store.manifest import (
    MANIFEST,
    ManifestRow,
    summarise,
    write_segments,
)
from stx_core.store.snapshot import exact_ids, output_schema

# Each holds a whole file.
_FILES_AT_ONCE = 4

Amend = Callable[[Mapping[str, Any], Sequence[str]], Mapping[str, Any]]
"""Takes rows, by the hashes of their texts, out of statistics of an output, which are JSON values;
gives {} where it cannot."""


@dataclass(frozen=True)
class _Rest:
    """A file without some rows, and these rows: their ids, and counts of their texts."""

    file: Written
    gone: pa.Table

    def sum(self, column: str) -> int:
        """Sum over the rows that went; 0 where there is no such column."""
        in_file = column in self.gone.column_names
        return (pc.sum(self.gone[column]).as_py() or 0) if in_file else 0

    def hashes(self) -> list[str]:
        """Hashes of the texts that went."""
        in_file = "content_hash" in self.gone.column_names
        return self.gone["content_hash"].to_pylist() if in_file else []


_NOTHING = _Rest(NO_FILE, pa.table({}))


def content_without(
    root: str,
    snapshot: Snapshot,
    manifest: pa.Table,
    *,
    ids: pa.Array,
    files: Collection[str],
    claim: Claim,
    amend: Amend,
) -> Content | None:
    """Write files and segments of a snapshot again without some rows; nothing is published.

    The rows count as left out by a filter: their units keep their keys, and are not done again.

    Args:
        root: the dataset.
        snapshot: whose outputs have one row for each id.
        manifest: of it.
        ids: (N,) string, of the rows.
        files: that have such rows.
        claim: of the run that writes.
        amend: see there.

    Returns:
        The content; None where the snapshot has none of the rows.

    Raises:
        StoreError: a file cannot be read, or written.
    """
    is_changed = names_one(manifest, list(files))
    old = manifest.filter(is_changed).to_pylist()
    if not old:
        return None
    columns = {name: str(exact_ids(facts)) for name, facts in snapshot["outputs"].items()}
    # Two outputs of one encoder share their files.
    jobs = {row["file"]: (row["key"], columns[row["output"]]) for row in old}
    jobs |= {row["quarantine_file"]: (row["key"], "id") for row in old}
    due = [file for file in jobs if file in files]

    def write(file: str) -> _Rest:
        key, column = jobs[file]
        name = f"{key}-{claim.run}-{claim.epoch}-{uuid.uuid4().hex[:12]}.parquet"
        return _write_rest(root, file, f"{file.rpartition('/')[0]}/{name}", ids, column=column)

    rests = dict(zip(due, parallel(write, due, _FILES_AT_ONCE), strict=True))
    new: list[ManifestRow] = []
    hashes: dict[str, list[str]] = {name: [] for name in columns}
    for row in old:
        data, bad = (rests.get(row[name]) for name in ("file", "quarantine_file"))
        column = columns[row["output"]]
        kind = output_schema(snapshot["outputs"][row["output"]]).field(column).type
        new.append(_row_without(row, data, bad, kind=kind, column=column, amend=amend))
        hashes[row["output"]] += data.hashes() if data else []
    unchanged = manifest.filter(pc.invert(is_changed))
    rows = pa.concat_tables([unchanged, pa.Table.from_pylist(new, MANIFEST)])
    content = _content(rows, snapshot, hashes, amend)
    content["segments"] = write_segments(
        root, claim.run, claim.epoch, rows=rows, base=snapshot["segments"]
    )
    return content


def _write_rest(root: str, file: str, name: str, ids: pa.Array, *, column: str) -> _Rest:
    """Write a file again, under another name, without some rows."""
    url = join(root, file)

    def read() -> pa.Table:
        with open_parquet(url) as parquet:
            return parquet.read(use_threads=False)

    table = retry(read, url)
    is_gone = pc.is_in(table[column].cast(pa.string()), value_set=ids)
    counted = [c for c in ("n_tokens", "truncated", "content_hash") if c in table.column_names]
    gone = table.filter(is_gone).select([column, *counted])
    rest = table.filter(pc.invert(is_gone))
    about = {key.decode(): text.decode() for key, text in (table.schema.metadata or {}).items()}
    return _Rest(write_table(root, name, rest, about) if len(rest) else NO_FILE, gone)


def _row_without(
    row: ManifestRow,
    data: _Rest | None,
    bad: _Rest | None,
    *,
    column: str,
    kind: pa.DataType,
    amend: Amend,
) -> ManifestRow:
    """A manifest row of a unit whose files were written again, or one of them was."""
    data, bad, new = data or _NOTHING, bad or _NOTHING, row.copy()
    hash_out = id_hash(data.gone[column]) if len(data.gone) else 0
    # Quarantine files hold ids as text.
    hash_bad = id_hash(bad.gone["id"].cast(kind)) if len(bad.gone) else 0
    if len(data.gone):
        written = data.file
        new["file"], new["size"], new["checksum"], new["file_rows"] = written
        quality = amend(json.loads(row["quality"] or "{}"), data.hashes())
        new["quality"] = json.dumps(quality) if quality else None
    if len(bad.gone):
        written = bad.file
        new["quarantine_file"], new["quarantine_size"], new["quarantine_checksum"], _ = written
    new["rows_in"] -= len(data.gone) + len(bad.gone)
    new["rows_filtered"] += len(data.gone) + len(bad.gone)
    new["rows_out"] -= len(data.gone)
    new["rows_quarantined"] -= len(bad.gone)
    new["id_hash_in"] = _less(row["id_hash_in"], hash_out + hash_bad)
    new["id_hash_out"] = _less(row["id_hash_out"], hash_out)
    new["id_hash_quarantined"] = _less(row["id_hash_quarantined"], hash_bad)
    new["n_tokens"] -= data.sum("n_tokens")
    new["n_truncated"] -= data.sum("truncated")
    return new


def _less(text: str, hashed: int) -> str:
    return f"{(int(text, 16) - hashed) % HASH_MODULUS:032x}"


def _content(
    rows: pa.Table, snapshot: Snapshot, hashes: Mapping[str, Sequence[str]], amend: Amend
) -> Content:
    """Content of the new snapshot; its segments are not written yet."""
    outputs: dict[str, OutputFacts] = {}
    totals = {name: summarise(rows, name) for name in snapshot["outputs"]}
    for name, total in totals.items():
        facts = outputs[name] = snapshot["outputs"][name].copy()
        facts["rows"], facts["file_rows"] = total.rows, total.file_rows
        facts["bytes"], facts["files"] = total.bytes, total.files
        facts["rows_quarantined"], facts["id_hash"] = total.rows_quarantined, total.id_hash
        if quality := facts.get("quality"):
            statistics = amend(quality.get("statistics", {}), hashes[name])
            facts["quality"] = {**quality, "statistics": statistics}
    # All outputs were made from the same rows.
    total = next(iter(totals.values()))
    return {"outputs": outputs, "segments": [], "rows": total.rows_in, "id_hash": total.id_hash_in}
