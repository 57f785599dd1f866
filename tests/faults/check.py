"""The end check: what must hold of a dataset after any fault, however the run came to its end."""

import json
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from stx.pipelines.encode import run_encode
from stx.pipelines.spec.file import parse_spec
from stx_core.errors import StoreError
from stx_core.store import log
from stx_core.store.files.filesystem import list_names, open_file, read_bytes
from stx_core.store.files.urls import join
from stx_core.store.id_hash import HASH_MODULUS, id_hash
from stx_core.store.sealed import decode, is_whole
from stx_core.store.snapshot import open_snapshot, read_manifest, snapshot_info

COLUMNS = ["id", "embedding", "n_tokens", "truncated", "content_hash"]


@dataclass(frozen=True)
class Expected:
    """What a clean run over the same corpus gives.

    Attributes:
        ids: of the corpus, with how often each occurs.
        rows: of the snapshot, sorted.
        quarantined: (id, reason), with how often each occurs.
        exact: vectors must have the same bits; else a cosine of 0.9999, for models whose numbers
            depend on the batch.
    """

    ids: Counter
    rows: pa.Table
    quarantined: Counter
    exact: bool = True

    def with_lost(self, reasons: dict[str, str]) -> "Expected":
        """The same, but with some more ids in the quarantine; vectors nearly equal."""
        kept = pc.invert(pc.is_in(self.rows["id"], value_set=pa.array(list(reasons))))
        rows = self.rows.filter(kept).combine_chunks()
        return Expected(self.ids, rows, self.quarantined + Counter(reasons.items()), exact=False)


def clean_run(values: dict, output: Path) -> Expected:
    """Encode a corpus of local files, Parquet or lines, in this process, undisturbed."""
    folder = Path(values["inputs"]["path"])
    ids: Counter = Counter()
    for path in folder.rglob("*.parquet"):
        ids.update(pq.read_table(path, columns=["id"]).column("id").to_pylist())
    for path in folder.glob("*.jsonl"):
        lines = path.read_text(errors="replace").splitlines()
        ids.update(json.loads(line)["id"] for line in lines)
    run_encode(parse_spec(values | {"output": {"path": str(output)}}))
    return Expected(ids, sorted_rows(str(output)), quarantined(str(output)))


def sorted_rows(root: str, version: int | None = None) -> pa.Table:
    """The rows of a snapshot, independent of the order of its files."""
    table = open_snapshot(root, version=version).to_table(columns=COLUMNS)
    return table.sort_by([("id", "ascending"), ("content_hash", "ascending")]).combine_chunks()


def quarantined(root: str, version: int | None = None) -> Counter:
    """(id, reason) of the quarantined rows of a snapshot."""
    found: Counter = Counter()
    for name in set(read_manifest(root, version).column("quarantine_file").to_pylist()) - {""}:
        with open_file(join(root, name)) as file:
            table = pq.read_table(file, columns=["id", "reason"])
        found.update(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return found


def check_rows(root: str, expected: Expected) -> None:
    """Every id once, in the output or in the quarantine; vectors bit-equal to a clean run."""
    rows, bad = sorted_rows(root), quarantined(root)
    found = Counter(rows.column("id").to_pylist()) + Counter(id for id, _ in bad.elements())
    assert found == expected.ids
    assert bad == expected.quarantined
    if expected.exact:
        assert rows.equals(expected.rows), "rows differ from those of a clean run"
        return
    others = [name for name in COLUMNS if name != "embedding"]
    assert rows.select(others).equals(expected.rows.select(others))
    found, wanted = vectors(rows), vectors(expected.rows)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    assert (np.sum(found * wanted, axis=1) / lengths).min() >= 0.9999


def vectors(rows: pa.Table) -> np.ndarray:
    """(N, D) float64."""
    column = rows.column("embedding").combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), -1).astype(np.float64)


def check_files(root: str) -> None:
    """Everything that a kept version names is there, as it was recorded, and named once."""
    for version in log.latest(root).state["kept"]:
        manifest = read_manifest(root, int(version))
        rows = manifest.to_pylist()
        places = Counter((row["output"], row["url"], row["start"]) for row in rows)
        assert places.most_common(1)[0][1] == 1, "two files for one unit"
        for row in rows:
            check_file(root, row)
        assert sum(row["rows_in"] for row in rows) == snapshot_info(root, int(version)).rows


def check_file(root: str, row: dict) -> None:
    """One data file: size, checksum, rows and ids are those of its manifest row."""
    if row["file"]:
        data = read_bytes(join(root, row["file"]))
        assert (len(data), xxhash.xxh3_128_hexdigest(data)) == (row["size"], row["checksum"])
        ids = pq.read_table(pa.BufferReader(data), columns=["id"]).column("id")
        assert (len(ids), f"{id_hash(ids):032x}") == (row["rows_out"], row["id_hash_out"])
    if row["quarantine_file"]:
        data = read_bytes(join(root, row["quarantine_file"]))
        assert pq.read_metadata(pa.BufferReader(data)).num_rows == row["rows_quarantined"]


def read_log(root: str) -> list[dict]:
    """All entries of the log in order, with no gap, each chained to the one before."""
    folder = join(root, "_stx", "log")
    names = [name for name in list_names(folder) if name.endswith(".json")]
    assert names == [f"{n:020d}.json" for n in range(1, len(names) + 1)]
    entries = [decode(read_bytes(join(folder, name))) for name in names]
    before = ""
    for entry in entries:
        assert is_whole(entry), f"log entry {entry.get('n')} is damaged"
        assert entry["previous"] == before
        before = entry["digest"]
    return entries


def check_log(root: str) -> None:
    """Epochs rise with each claim; a run commits once at most, under its highest epoch."""
    epochs: dict[str, int] = {}
    done: set[str] = set()
    version = 0
    for entry in read_log(root):
        for run, facts in entry["state"]["runs"].items():
            assert facts["epoch"] >= epochs.get(run, 1)
            if entry["kind"] == "commit" and facts["state"] == "done" and run not in done:
                assert facts["epoch"] == epochs[run], "committed under an old epoch"
            epochs[run] = facts["epoch"]
        newly = {r for r, f in entry["state"]["runs"].items() if f["state"] == "done"} - done
        assert len(newly) == (entry["kind"] == "commit")
        done |= newly
        snapshot = entry["state"]["snapshot"]
        now = snapshot["version"] if snapshot else 0
        assert now == version + (entry["kind"] in ("commit", "rollback"))
        version = now


def check_no_temporary_files(root: str) -> None:
    """Writers that were not killed leave nothing half-written."""
    assert [str(path) for path in Path(root).rglob(".*")] == []


class Reader(threading.Thread):
    """Reads the dataset all the time: versions complete, never falling, never changing.

    Attributes:
        may_be_refused: an error of the store is no problem, for what was damaged on purpose.
    """

    def __init__(self, root: str) -> None:
        super().__init__(daemon=True)
        self.root = root
        self.may_be_refused = False
        self.seen: dict[int, str] = {}
        self.problems: list[str] = []
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.1) and not self.problems:
            try:
                self.look()
            except Exception as error:  # noqa: BLE001  (whatever a reader meets is a finding)
                if not (self.may_be_refused and isinstance(error, StoreError)):
                    self.problems.append(repr(error))

    def look(self) -> None:
        """Read the current version once, if there is one."""
        entry = log.latest(self.root)
        if entry is None or entry.state["snapshot"] is None:
            return
        version = entry.state["snapshot"]["version"]
        if version < max(self.seen, default=0):
            self.problems.append(f"version {version} after {max(self.seen)}")
        content = self._content(version)
        if self.seen.setdefault(version, content) != content:
            self.problems.append(f"version {version} changed")

    def _content(self, version: int) -> str:
        rows, bad = sorted_rows(self.root, version), quarantined(self.root, version)
        info = snapshot_info(self.root, version)
        lost = pa.array([id for id, _ in bad.elements()], rows.column("id").type)
        total = (id_hash(rows.column("id")) + id_hash(lost)) % HASH_MODULUS
        if (len(rows) + len(lost), f"{total:032x}") != (info.rows, info.id_hash):
            self.problems.append(f"version {version} is not complete")
        return f"{total} {pc.sum(rows.column('n_tokens')).as_py()} {sorted(bad)}"

    def end(self) -> None:
        """End the thread."""
        self._end.set()
        self.join()

    def stop(self) -> None:
        """End the thread; raises what it met."""
        self.end()
        assert self.problems == []
