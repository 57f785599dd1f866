import threading
import uuid
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pytest

from stx_core.store import clock
from stx_core.store.commit import commit_snapshot
from stx_core.store.corpus.shards import Shard
from stx_core.store.corpus.units import Unit, Units, plan_units, unit_key
from stx_core.store.files.filesystem import write_new
from stx_core.store.files.urls import join
from stx_core.store.id_hash import id_hash
from stx_core.store.ledger import Record, to_table
from stx_core.store.manifest import planned_units
from stx_core.store.schema import dense_column, to_parquet

VECTORS = pa.schema(
    [("id", pa.string()), ("embedding", pa.list_(pa.field("element", pa.float32()), 2))]
)


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.programs)])
def root(request, tmp_path):
    """An empty place of each kind of store."""
    if request.param == "s3":
        return request.getfixturevalue("s3_root")
    return str(tmp_path / "out") if request.param == "local" else f"memory://{uuid.uuid4().hex}"


class VirtualClock:
    """Time that passes only while somebody sleeps; `during` is then called, to interfere."""

    def __init__(self):
        self.now, self.during, self._lock = 0.0, [], threading.Lock()

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        with self._lock:
            self.now += seconds
        for call in list(self.during):
            call()


@pytest.fixture(autouse=True)
def time(monkeypatch):
    """Nothing here waits for real."""
    virtual = VirtualClock()
    monkeypatch.setattr(clock, "monotonic", virtual.monotonic)
    monkeypatch.setattr(clock, "sleep", virtual.sleep)
    return virtual


@dataclass
class Job:
    """Two shards of ten rows, in units of five, and the means to finish a unit by hand."""

    root: str
    units: list[Unit]
    about: dict[str, object] = field(
        default_factory=lambda: {"model": "tiny", "fingerprint": "f", "dim": 2}
    )

    def key(self, unit, output="dense"):
        return unit_key(unit, {"output": output})

    def planned(self, output="dense"):
        return {output: {self.key(unit, output): unit for unit in self.units}}

    def finish(self, unit, run, epoch=1, output="dense"):
        import numpy as np

        ids = pa.array([f"{unit.url}:{row}" for row in range(unit.start, unit.stop)])
        vectors = dense_column(np.full((unit.n_rows, 2), unit.index, np.float32))
        data = to_parquet(pa.table([ids, vectors], schema=VECTORS))
        stem = f"{self.key(unit, output)}-{run}-{epoch}-{uuid.uuid4().hex[:12]}"
        file = f"data/{output}/{stem}.parquet"
        write_new(join(self.root, file), data)
        return make_record(
            unit,
            self.key(unit, output),
            output=output,
            file=file,
            ids=ids,
            size=len(data),
            run=run,
            epoch=epoch,
        )

    def finish_all(self, run, outputs=("dense",)):
        return [self.finish(unit, run, output=name) for name in outputs for unit in self.units]

    def publish(self, claim, records, outputs=("dense",), units=None, keeps=None, **types):
        planned = {name: self.planned(name)[name] for name in outputs}
        if units is not None:
            planned = {
                name: {key: unit for key, unit in keys.items() if unit in units}
                for name, keys in planned.items()
            }
        return commit_snapshot(
            self.root,
            claim,
            {name: as_planned(units) for name, units in planned.items()},
            to_table(records),
            {
                name: self.about | ({"type": types[name]} if name in types else {})
                for name in outputs
            },
            dict.fromkeys(outputs, VECTORS),
            keeps,
        )


def as_planned(units):
    """Units by key, as a commit takes them."""
    return planned_units(pa.array(list(units), pa.string()), Units.of(units.values()))


@pytest.fixture(name="as_planned")
def give_as_planned():
    return as_planned


def make_record(unit, key, *, output, file, ids, size, run, epoch):
    in_hex = f"{id_hash(ids):032x}"
    return Record(
        key=key, output=output, url=unit.url, identity=unit.identity, start=unit.start,
        stop=unit.stop, file=file, quarantine_file="", rows_in=unit.n_rows, rows_filtered=0,
        rows_out=unit.n_rows, rows_quarantined=0, reasons={}, id_hash_in=in_hex,
        id_hash_out=in_hex, id_hash_quarantined=f"{0:032x}", n_tokens=30, n_truncated=0,
        size=size, checksum="", file_rows=unit.n_rows, quarantine_size=0, quarantine_checksum="",
        seconds={"encode": 0.25}, run=run, epoch=epoch,
    )  # fmt: skip


@pytest.fixture
def job(root):
    shards = [
        Shard(f"/corpus/{name}.parquet", f"etag-{name}", "parquet", 10, (0, 10), pa.schema([]))
        for name in "ab"
    ]
    return Job(root, list(plan_units(shards, 5)))


@pytest.fixture
def change():
    return replace
