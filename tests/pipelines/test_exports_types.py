"""Copied columns of every Arrow type in every form: the same value comes back, or one line."""

import datetime
import json
import os
import shutil
import subprocess
import threading
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import deltalake
import lancedb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import load_catalog
from qdrant_client import QdrantClient

from stx.pipelines.exports.forms import FORMS as ALL_FORMS
from stx.pipelines.exports.options import ExportOptions
from stx_core.errors import StxError
from stx_core.store.data_file import hash_bytes
from stx_core.store.schema import to_parquet

UTC = datetime.UTC
DAY, MOMENT = datetime.date(2026, 2, 3), datetime.datetime(2026, 2, 3, 4, 5, 6, 789012)
CLOCK = datetime.time(4, 5, 6, 789012)
TYPES = {
    "bool": (pa.bool_(), True),
    **{f"int{bits}": (getattr(pa, f"int{bits}")(), -(2 ** (bits - 1))) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (getattr(pa, f"uint{bits}")(), 2**bits - 1) for bits in (8, 16, 32, 64)},
    "float16": (pa.float16(), 1.5),
    "float32": (pa.float32(), 0.25),
    "float64": (pa.float64(), 0.1),
    "string": (pa.string(), 'ü "x"\n'),
    "large_string": (pa.large_string(), "x"),
    "binary": (pa.binary(), b"\x00\xff"),
    "fixed_binary": (pa.binary(2), b"\x00\xff"),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), "x"),
    "date": (pa.date32(), DAY),
    "time_ms": (pa.time32("ms"), datetime.time(4, 5, 6, 789000)),
    "time_us": (pa.time64("us"), CLOCK),
    "time_ns": (pa.time64("ns"), CLOCK),
    "timestamp_ms": (pa.timestamp("ms"), MOMENT.replace(microsecond=789000)),
    "timestamp_us": (pa.timestamp("us"), MOMENT),
    "timestamp_ns": (pa.timestamp("ns"), MOMENT),
    "timestamp_utc": (pa.timestamp("us", "UTC"), MOMENT.replace(tzinfo=UTC)),
    "timestamp_berlin": (pa.timestamp("ns", "Europe/Berlin"), MOMENT.replace(tzinfo=UTC)),
    "timestamp_far": (pa.timestamp("us"), datetime.datetime(9999, 12, 31)),
    "nanosecond": (pa.timestamp("ns"), 1_770_000_000_000_000_001),
    "duration": (pa.duration("us"), datetime.timedelta(days=-2, microseconds=3)),
    "decimal": (pa.decimal128(10, 2), Decimal("12345678.91")),
    "decimal_long": (pa.decimal128(38, 2), Decimal("1234567890123456789012.91")),
    "decimal256": (pa.decimal256(60, 2), Decimal("1234567890123456789012.91")),
    "list": (pa.list_(pa.string()), ["a", None]),
    "list_ns": (pa.list_(pa.timestamp("ns")), [MOMENT]),
    "struct": (pa.struct([("a", pa.uint8()), ("b", pa.string())]), {"a": 255, "b": "x"}),
    "map": (pa.map_(pa.string(), pa.int64()), [("k", 1)]),
}  # fmt: skip
FORMS = [
    form
    for form in ALL_FORMS.table
    if form not in ("trec", "top_ranked", "anserini", "seismic", "ciff")
]


def dataset_of(folder, kind, value):
    """One output of a dataset with a copied column: three rows, the second one null."""
    folder.mkdir(exist_ok=True)
    vectors = pa.array([[1, 0], [0, 1], [1, 1]], pa.list_(pa.field("element", pa.float32()), 2))
    column = pa.array([value, None, value], kind)
    table = pa.table({"id": ["a", "b", "c"], "x": column, "embedding": vectors})
    (folder / "data.parquet").write_bytes(to_parquet(table))
    return ds.FileSystemDataset.from_paths(
        [str(folder / "data.parquet")],
        schema=table.schema,
        format=ds.ParquetFileFormat(),
        filesystem=pa.fs.LocalFileSystem(),
    ), table


def export(form, dataset, folder, **more):
    names = {"lance": "db/x.lance", "iceberg": "house/n.x", "qdrant": "db/x", "jsonl": "x.jsonl"}
    target = folder / names.get(form, "out")
    facts = {"similarity": "cosine", "bytes": 100, "model": "m", "fingerprint": "f"}
    checksums = tuple(hash_bytes(path)[1] for path in dataset.files)
    options = ExportOptions(
        source=str(folder), facts=facts, file_rows=(3,), checksums=checksums, **more
    )
    ALL_FORMS[form].writer()(dataset, str(target), options)
    return target


def lines_of(folder, ending):
    (path,) = Path(folder).glob(f"part-*{ending}")
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_pgvector(target):
    (path,) = target.glob("part-*.copy")
    fields = [line.split("\t")[1] for line in path.read_bytes().decode().split("\n")[:-1]]
    kind = (target / "create.sql").read_text().split('"x" ')[1].split(",")[0]
    return kind, [None if field == "\\N" else field for field in fields]


def read_rows(folder):
    return [row.get("x") for row in lines_of(folder, ".jsonl")]


def read_parquet(target, name="*.parquet"):
    return pq.read_table(next(target.glob(name)))["x"].to_pylist()


READERS = {
    "lance": lambda target: sorted_x(lancedb.connect(target.parent).open_table("x").to_arrow()),
    "delta": lambda target: sorted_x(deltalake.DeltaTable(str(target)).to_pyarrow_table()),
    "iceberg": lambda target: sorted_x(
        load_catalog("default", type="sql", uri=f"sqlite:///{target.parent}/catalog.db")
        .load_table("n.x").scan().to_arrow()
    ),
    "huggingface": read_parquet,
    "parquet": read_parquet,
    "faiss": lambda target: read_parquet(target, "rows.parquet"),
    "usearch": lambda target: read_parquet(target, "rows.parquet"),
}  # fmt: skip


def sorted_x(table):
    return table.sort_by("id")["x"].to_pylist()


def read_json(form, target):
    if form == "jsonl":
        rows = [json.loads(line) for line in target.read_text().splitlines()]
    elif form in ("elasticsearch", "opensearch"):
        rows = lines_of(target, ".ndjson")[1::2]
    elif form == "vespa":
        rows = [line["fields"] for line in lines_of(target, ".jsonl")]
    elif form == "qdrant":
        client = QdrantClient(path=str(target.parent))
        points, _ = client.scroll("x", limit=10)
        client.close()
        rows = sorted((point.payload for point in points), key=lambda row: row["id"])
    else:
        name, column = {"milvus": ("*.parquet", "$meta"), "pinecone": ("*/*.parquet", "metadata")}[
            form
        ]
        rows = list(map(json.loads, pq.read_table(next(target.glob(name)))[column].to_pylist()))
    return [row.get("x") for row in rows]


def in_json(value):
    """What a value is in JSON."""
    if isinstance(value, Decimal):
        return float(value) if len(value.as_tuple().digits) <= 15 else str(value)
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return dict(value)
    if isinstance(value, list):
        return list(map(in_json, value))
    return value.isoformat() if isinstance(value, (datetime.date, datetime.time)) else value


def same(given, value):
    """Whether a value came back: as itself, or as a number, time or bytes that is equal to it."""
    if isinstance(value, dict):
        return given.keys() == value.keys() and all(same(given[key], value[key]) for key in value)
    if isinstance(value, list) and isinstance(given, list):
        return len(given) == len(value) and all(map(same, given, value))
    if isinstance(given, datetime.datetime) and isinstance(value, datetime.datetime):
        return given.replace(tzinfo=given.tzinfo or UTC) == value.replace(
            tzinfo=value.tzinfo or UTC
        )
    if isinstance(value, tuple):
        return tuple(given) == value
    return given == value


def attempt(form, dataset, folder):
    """Where the export is, or the line that says why there is none."""
    try:
        return export(form, dataset, folder), None
    except StxError as error:
        return None, str(error)


# What a form has no type for, or no room: those are told of before anything is written.
REFUSED = {
    "delta": {"time_ms", "time_us", "time_ns", "nanosecond", "duration", "decimal256"},
    "iceberg": {"nanosecond", "duration", "decimal256"},
    "pgvector": {"nanosecond"},
}
NOT_JSON = {"binary", "fixed_binary", "duration"}
NESTED = {"struct", "map", "list_ns"}


@pytest.mark.parametrize("form", FORMS)
def test_every_arrow_type_round_trips_or_is_refused_in_one_line(tmp_path, form):
    refused = set(REFUSED.get(form, ()))
    for name, (kind, value) in TYPES.items():
        folder = tmp_path / name
        dataset, table = dataset_of(folder, kind, value)
        target, error = attempt(form, dataset, folder)
        if error is not None:
            told = name in refused or (form not in READERS and name in NOT_JSON | NESTED)
            assert told or (form, name) == ("lance", "map"), (name, error)
            assert "\n" not in error
            assert "'x'" in error or "a copied" in error or "as JSON" in error
            continue
        assert name not in refused
        wanted = table["x"].to_pylist() if name == "nanosecond" else [value, None, value]
        if form == "pgvector":
            check_pgvector(name, value, *read_pgvector(target))
        elif form in READERS:
            given = READERS[form](target)
            assert all(map(same, given, wanted)), (name, given)
        elif name == "nanosecond":
            assert read_json(form, target)[0] == "2026-02-02T02:40:00.000000001"
        elif name == "timestamp_berlin":
            given = read_json(form, target)[0]
            assert datetime.datetime.fromisoformat(given) == value
        else:
            given = read_json(form, target)
            assert given == [in_json(value), None, in_json(value)], name


IDS = {
    "elasticsearch": ("é" * 300, "has more than 512 bytes"),
    "opensearch": ("x" * 513, "has more than 512 bytes"),
    "pinecone": ("é", "has other characters than ASCII"),
    "milvus": ("x" * 65_536, "has more than 65535 bytes"),
    "vespa": ("", "is empty"),
    "anserini": ("", "is empty"),
}


@pytest.mark.parametrize("form", IDS)
def test_ids_are_checked_by_the_rules_of_the_engine(tmp_path, form):
    for number, (name, problem) in enumerate([IDS[form], ("", "is empty")]):
        folder = tmp_path / str(number)
        dataset, table = dataset_of(folder, pa.int64(), 1)
        ids = table.set_column(0, "id", pa.array(["a", name, "c"]))
        (folder / "data.parquet").write_bytes(to_parquet(ids))

        target, error = attempt(form, dataset, folder)

        assert target is None
        assert f"{problem}, which {form} does not take" in error


def test_pinecone_takes_the_longest_id_and_no_nested_metadata(tmp_path):
    dataset, table = dataset_of(tmp_path, pa.struct([("a", pa.int8())]), {"a": 1})
    ids = table.set_column(0, "id", pa.array(["a" * 512, "b", "c"]))
    (tmp_path / "data.parquet").write_bytes(to_parquet(ids))

    _, error = attempt("pinecone", dataset, tmp_path)

    assert error.startswith("column 'x' is struct<a: int8>, and Pinecone takes texts")
    export("pinecone", dataset, tmp_path, columns=())


class Engine(BaseHTTPRequestHandler):
    """Answers bulk requests as Elasticsearch does: 200, whatever became of the rows."""

    def do_POST(self):
        rows = self.rfile.read(int(self.headers["Content-Length"]))
        wrong = b"bad" in rows
        error = {"index": {"error": {"reason": "mapping"}}}
        answer = {"errors": wrong, "items": [error] if wrong else []}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer, separators=(",", ":")).encode())

    def log_message(self, *_):
        pass


@pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("split")), reason="needs curl, split"
)
@pytest.mark.parametrize(("rows", "code"), [("good", 0), ("bad", 1)])
def test_the_recipe_for_bulk_requests_fails_when_rows_fail(tmp_path, rows, code):
    text = Path("docs/export.md").read_text()
    recipe = text[text.index("    cat folder/part-*.ndjson") :].split("\n\n")[0]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "part-0.ndjson").write_text(f"{{}}\n{rows}\n" * 3000)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    environment = os.environ | {"URL": f"http://127.0.0.1:{server.server_port}"}
    done = subprocess.run(
        ["bash", "-c", recipe], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    server.shutdown()
    server.server_close()

    assert (done.returncode != 0) == code, done.stderr


SQL = {
    "decimal": ("numeric", "12345678.91"),
    "decimal_long": ("numeric", "1234567890123456789012.91"),
    "time_us": ("time", "04:05:06.789012"),
    "duration": ("interval", f"{-2 * 86400 * 10**6 + 3} microseconds"),
    "binary": ("bytea", "\\\\x00ff"),
    "uint64": ("numeric", str(2**64 - 1)),
    "dictionary": ("text", "x"),
    "timestamp_ns": ("timestamp", "2026-02-03T04:05:06.789012"),
    "map": ("jsonb", '{"k": 1}'),
}


def check_pgvector(name, value, kind, given):
    assert given[1] is None
    if name in SQL:
        assert (kind, given[0]) == SQL[name]
