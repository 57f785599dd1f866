"""Columns of every type that Parquet holds are copied beside the vectors, bad rows or not."""

import datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines.encode import run_encode
from stx_core.store.snapshot import open_snapshot

NESTED = pa.list_(pa.struct([("m", pa.map_(pa.string(), pa.list_(pa.int8())))]))
TYPES = {
    "uint64": (pa.uint64(), 2**64 - 1),
    "float16": (pa.float16(), 0.5),
    "binary": (pa.binary(), b"\xff"),
    "fixed": (pa.binary(3), b"abc"),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), "x"),
    "date": (pa.date32(), datetime.date(2026, 1, 2)),
    "time": (pa.time64("us"), datetime.time(1, 2, 3, 4)),
    "duration": (pa.duration("ms"), datetime.timedelta(seconds=3)),
    "decimal": (pa.decimal128(38, 4), Decimal("1.5000")),
    "decimal256": (pa.decimal256(70, 4), Decimal("1.5000")),
    "list": (pa.list_(pa.string()), ["a", None]),
    "large_list": (pa.large_list(pa.large_string()), ["a"]),
    "fixed_list": (pa.list_(pa.float32(), 2), [1.0, 2.0]),
    "struct": (pa.struct([("a", pa.int8())]), {"a": 1}),
    "map": (pa.map_(pa.string(), pa.int64()), [("k", 1), ("l", None)]),
    "nested": (NESTED, [{"m": [("k", [1])]}, None]),
    "json": (pa.json_(), '{"a": 1}'),
}


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_every_type_is_copied_as_it_is(tmp_path, spec_of, format):
    columns = {}
    for name, (kind, value) in TYPES.items():
        storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
        values = pa.array([value, None, value, value], storage)
        columns[name] = values if storage == kind else pa.ExtensionArray.from_storage(kind, values)
    if format == "arrow":
        # What `datasets` has no features for.
        for name in ("map", "nested", "json", "dictionary", "fixed"):
            del columns[name]
    table = pa.table({"id": ["a", "b", "c", "d"], "text": ["sand", "sea", None, "sun"], **columns})
    if format == "parquet":
        pq.write_table(table, tmp_path / "corpus.parquet", row_group_size=2)
        path = tmp_path / "corpus.parquet"
    else:
        import datasets

        path = tmp_path / "corpus"
        datasets.Dataset(table).save_to_disk(path)

    run_encode(spec_of(path, inputs={"columns": list(columns)}))

    rows = open_snapshot(str(tmp_path / "out")).to_table()
    assert rows["id"].to_pylist() == ["a", "b", "d"]
    for name in columns:
        value = TYPES[name][1]
        assert rows[name].to_pylist() == [value, None, value], name
