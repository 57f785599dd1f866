"""Vectors in the forms of engines and table formats: the same ids, columns and nearest rows.

Expected rows come from the snapshot and from the exact search of stx. Engines that run here are
asked; for the others their files are read by the format's own library, or parsed.
"""

import datetime
import json
import subprocess
import sys
import threading
import warnings
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import gcd
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from stx.pipelines.export import run_export
from stx.pipelines.exports import lakes, parts, qdrant, vectors
from stx.pipelines.exports.forms import FORMS as ALL_FORMS
from stx.pipelines.exports.qdrant import PART_KEY, point_id
from stx_core.errors import InputError, SpecError
from stx_core.search.dense import dense_top_k
from stx_core.search.sparse import sparse_top_k
from stx_core.search.sparse_rows import SparseRows
from stx_core.store.schema import dense_matrix, sparse_csr
from stx_core.store.snapshot import open_snapshot
from tests.pipelines.conftest import WORDS
from tests.pipelines.retrieval import encode

K, N_ROWS, N_QUERIES = 10, 200, 12
# Of ASCII: Pinecone takes no others.
ODD_IDS = ['quo"te\\', "tab\tid", "line\nid", "uni id", "-1", "1e3", "$9"]
# What has to be read is in docs/export.md; these are all forms that hold vectors.
FORMS = [name for name in ALL_FORMS.table if name not in ("trec", "top_ranked", "jsonl", "parquet")]
SPARSE_ONLY, DENSE_ONLY = ("seismic", "ciff"), ("faiss", "usearch")
BARE = ("anserini", "seismic", "ciff")


def distinct_texts(n_rows):
    """Texts whose words stand in different proportions each: no two of them score the same."""
    random, seen, texts = np.random.default_rng(5), set(), []
    while len(texts) < n_rows:
        words = list(random.choice(WORDS, random.integers(3, 14)))
        counts = Counter(words)
        shared = gcd(*counts.values())
        key = tuple(sorted((word, count // shared) for word, count in counts.items()))
        if key not in seen:
            seen.add(key)
            texts.append(" ".join(words))
    return texts


@pytest.fixture(scope="module")
def root(tmp_path_factory, static_model, splade_model):
    """A dataset with dense, half-precision and sparse vectors and columns of several types."""
    models = {
        "dense": {"model": str(static_model)},
        "half": {"model": str(static_model), "store_as": "float16"},
        "splade": {"model": str(splade_model), "type": "sparse"},
    }
    return dataset_of(tmp_path_factory.mktemp("exported"), ODD_IDS, models)


def dataset_of(folder, odd_ids, models):
    ids = [*odd_ids, *(f"{i:04}" for i in range(N_ROWS - len(odd_ids)))]
    columns = {
        "lang": [(None, 'de\t"\\N"\n', "en", "fr", "")[i % 5] for i in range(N_ROWS)],
        "year": [None if i == 3 else 1900 + i for i in range(N_ROWS)],
        "good": [i % 2 == 0 for i in range(N_ROWS)],
        "weight": [i / 3 for i in range(N_ROWS)],
        "tags": [["a", "b"][: i % 3] for i in range(N_ROWS)],
        "day": [datetime.date(2026, 1, 1) + datetime.timedelta(i) for i in range(N_ROWS)],
    }  # fmt: skip
    return encode(folder, "corpus", ids, distinct_texts(N_ROWS), models, columns)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Files are small here: several batches a part, several parts, several commits."""
    monkeypatch.setattr(vectors, "_ROWS_AT_ONCE", 20)
    monkeypatch.setattr(parts, "ROWS_PER_PART", 50)
    monkeypatch.setattr(lakes, "_BYTES_PER_COMMIT", 1)
    monkeypatch.setattr(qdrant, "_POINTS_AT_ONCE", 15)


@pytest.fixture(scope="module")
def exported(root, tmp_path_factory):
    """Exports once for several tests, which only read; gives the destination."""
    made = {}

    def export(form, output):
        if (form, output) not in made:
            made[form, output] = place(form, tmp_path_factory.mktemp("once"))
            assert run_export(root, made[form, output], form, output=output) == N_ROWS
        return made[form, output]

    return export


def place(form, tmp_path):
    """A destination of the right kind."""
    names = {"lance": "db/rows.lance", "iceberg": "house/space.rows", "qdrant": "db/rows"}
    return str(tmp_path / names.get(form, "a.ciff" if form == "ciff" else "out"))


def rows_of(root, output):
    """{id: row}, vectors as arrays or {index: weight}, nulls left out."""
    table = open_snapshot(root, output=output).to_table()
    if output == "splade":
        offsets, indices, values = sparse_csr(table["sparse_embedding"])
        found = [
            dict(zip(indices[a:b].tolist(), values[a:b].tolist(), strict=True))
            for a, b in zip(offsets[:-1], offsets[1:], strict=True)
        ]
    else:
        found = list(dense_matrix(table["embedding"]).astype(np.float32))
    payload = table.select(["lang", "year", "good", "weight", "tags", "day"]).to_pylist()
    return {
        name: (vector, {key: value for key, value in row.items() if value is not None})
        for name, vector, row in zip(table["id"].to_pylist(), found, payload, strict=True)
    }


def as_json(payload):
    return {key: value.isoformat() if key == "day" else value for key, value in payload.items()}


def nearest(root, output, scale=None):
    """Vectors of some rows, and the ids of the rows nearest to each by the exact search of stx."""
    table = open_snapshot(root, output=output).to_table()
    ids = np.array(table["id"].to_pylist(), object)
    if output == "splade":
        rows = SparseRows(*sparse_csr(table["sparse_embedding"]))
        if scale:
            rows = SparseRows(rows.offsets, rows.indices, np.rint(rows.values * scale))
        asked = SparseRows(*sparse_csr(table["sparse_embedding"].slice(0, N_QUERIES)))
        found = sparse_top_k(asked, rows, K).rows
        edges = zip(asked.offsets[:-1], asked.offsets[1:], strict=True)
        queries = [(asked.indices[a:b], asked.values[a:b]) for a, b in edges]
    else:
        matrix = dense_matrix(table["embedding"]).astype(np.float32)
        queries = list(matrix[:N_QUERIES])
        found = dense_top_k(matrix[:N_QUERIES], matrix, K, "cosine").rows
    return queries, [list(ids[row]) for row in found]


def json_lines(folder, ending=".jsonl"):
    files = sorted(Path(folder).glob(f"part-*{ending}"))
    assert len(files) == 4
    return [json.loads(line) for file in files for line in file.read_bytes().split(b"\n")[:-1]]


def ranked_dense(ids, matrix, query):
    """The form's own vectors, compared by cosine: what an engine does with them."""
    matrix = np.asarray(matrix, np.float64)
    scores = matrix @ query / np.linalg.norm(matrix, axis=1)
    return [ids[row] for row in np.argsort(-scores, kind="stable")[:K]]


def ranked_sparse(ids, rows, query):
    weights = dict(zip(query[0].tolist(), query[1].tolist(), strict=True))
    scores = [sum(weights.get(int(i), 0) * w for i, w in row.items()) for row in rows]
    return [ids[row] for row in np.argsort(-np.array(scores), kind="stable")[:K]]


# Engines that run here: each gives ids of the rows nearest to a query.


def search_qdrant(destination, output):
    from qdrant_client import QdrantClient, models

    name = "sparse_embedding" if output == "splade" else "embedding"

    def search(query):
        if output == "splade":
            query = models.SparseVector(indices=query[0].tolist(), values=query[1].tolist())
        else:
            query = query.tolist()
        client = QdrantClient(path=destination.rpartition("/")[0])
        found = client.query_points("rows", query, using=name, limit=K).points
        client.close()
        assert all(point.id == point_id(point.payload["id"]) for point in found)
        return [point.payload["id"] for point in found]

    return search


def search_lance(destination, output):
    import lancedb

    table = lancedb.connect(destination.rpartition("/")[0]).open_table("rows")

    def search(query):
        found = table.search(query.tolist(), vector_column_name="embedding").distance_type("cosine")
        return found.limit(K).to_arrow()["id"].to_pylist()

    return search


def search_faiss(destination, output):
    import faiss

    index = faiss.read_index(f"{destination}/index.faiss")
    ids = pq.read_table(f"{destination}/rows.parquet")["id"].to_pylist()
    return lambda query: [
        ids[row] for row in index.search(query[None] / np.linalg.norm(query), K)[1][0]
    ]


def search_usearch(destination, output):
    from usearch.index import Index

    index = Index.restore(f"{destination}/index.usearch")
    ids = pq.read_table(f"{destination}/rows.parquet")["id"].to_pylist()
    # Its graph is another one each time, and may miss a row: what it holds is searched in full.
    return lambda query: [ids[key] for key in index.search(query, K, exact=True).keys.tolist()]


def search_milvus(destination, output):
    """Milvus Lite takes the rows of the import files as they are, decoded by their types."""
    from pymilvus import DataType, MilvusClient

    client = MilvusClient(f"{destination}.db")
    schema = client.create_schema(enable_dynamic_field=True)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
    sparse = output == "splade"
    name = "sparse_embedding" if sparse else "embedding"
    kind = DataType.SPARSE_FLOAT_VECTOR if sparse else DataType.FLOAT_VECTOR
    schema.add_field(name, kind, **({} if sparse else {"dim": 8}))
    index = client.prepare_index_params()
    index.add_index(name, index_type="SPARSE_INVERTED_INDEX" if sparse else "FLAT",
                    metric_type="IP" if sparse else "COSINE")  # fmt: skip
    client.create_collection("rows", schema=schema, index_params=index)
    rows = pq.read_table(destination).to_pylist()
    for row in rows:
        row |= json.loads(row.pop("$meta"))
        if sparse:
            # A whole number may stand without its point, which only this client minds.
            row[name] = {int(key): float(one) for key, one in json.loads(row[name]).items()}
    client.insert("rows", rows)

    def search(query):
        if sparse:
            query = dict(zip(query[0].tolist(), query[1].tolist(), strict=True))
        else:
            query = query.tolist()
        (found,) = client.search("rows", [query], anns_field=name, limit=K, output_fields=["id"])
        return [hit["id"] for hit in found]

    return search


def search_seismic(destination, output):
    import seismic

    parts = sorted(Path(destination).glob("part-*"))
    whole = Path(f"{destination}.jsonl")
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    index = seismic.SeismicIndex.build(str(whole))
    kind = seismic.get_seismic_string()

    def search(query):
        tokens = np.array([str(index) for index in query[0]], dtype=kind)
        found = index.search("q", tokens, query[1], k=K, query_cut=10_000, heap_factor=0.0)
        return [name for _, _, name in found]

    return search


# Files of engines that do not run here, and tables: what they hold is searched in full.


def rows_vespa(destination, output):
    found = {}
    for put in json_lines(destination):
        fields = put["fields"]
        assert put == {"put": f"id:documents:documents::{fields['id']}", "fields": fields}
        if output == "splade":
            vector = fields.pop("sparse_embedding")["cells"]
        else:
            vector = fields.pop("embedding")["values"]
        found[fields.pop("id")] = vector, fields
    return found


def rows_bulk(destination, output):
    lines = json_lines(destination, ".ndjson")
    found = {}
    for action, source in zip(lines[::2], lines[1::2], strict=True):
        assert action == {"index": {"_id": source["id"]}}
        vector = source.pop("sparse_embedding" if output == "splade" else "embedding")
        found[source.pop("id")] = vector, source
    return found


def rows_anserini(destination, output):
    rows = json_lines(destination)
    if output != "splade":
        assert {tuple(row) for row in rows} == {("docid", "vector")}
        return {row["docid"]: (row["vector"], {}) for row in rows}
    assert {(*row, row["contents"]) for row in rows} == {("id", "contents", "vector", "")}
    assert all(type(weight) is int for row in rows for weight in row["vector"].values())
    return {row["id"]: (row["vector"], {}) for row in rows}


def rows_pgvector(destination, output):
    """Parsed as COPY does: columns by tabs, then backslashes; vectors by pgvector's own package."""
    from pgvector import HalfVector, SparseVector, Vector

    read = {
        "dense": lambda text: Vector.from_text(text).to_numpy(),
        "half": lambda text: HalfVector.from_text(text).to_numpy().astype(np.float32),
        "splade": lambda text: _sparse(SparseVector.from_text(text)),
    }[output]
    escapes = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}
    found = {}
    for file in sorted(Path(destination).glob("part-*.copy")):
        for line in file.read_bytes().decode().split("\n")[:-1]:
            values = []
            for field in line.split("\t"):
                chars = iter(field)
                text = "".join(escapes[next(chars)] if c == "\\" else c for c in chars
                               ) if field != "\\N" else None  # fmt: skip
                values.append(text)
            name, lang, year, good, weight, tags, day, vector = values
            payload = {
                "lang": lang, "year": year and int(year), "good": json.loads(good),
                "weight": float(weight), "tags": json.loads(tags), "day": day,
            }  # fmt: skip
            known = {key: value for key, value in payload.items() if value is not None}
            found[name] = read(vector), known
    return found


def _sparse(vector):
    return dict(zip(vector.indices(), vector.values(), strict=True))


def rows_pinecone(destination, output):
    table = pq.read_table(f"{destination}/__default__", partitioning=None)
    found = {}
    for row in table.to_pylist():
        vector = row.get("values")
        if output == "splade":
            sparse = row["sparse_values"]
            vector = dict(zip(sparse["indices"], sparse["values"], strict=True))
        found[row["id"]] = vector, json.loads(row["metadata"])
    return found


def rows_table(table, output):
    found = {}
    for row in table.to_pylist():
        name = row.pop("id")
        vector = row.pop("sparse_embedding" if output == "splade" else "embedding")
        if output == "splade":
            vector = dict(zip(vector["indices"], vector["values"], strict=True))
        found[name] = vector, as_json({k: v for k, v in row.items() if v is not None})
    assert len(found) == len(table)
    return found


def rows_delta(destination, output):
    from deltalake import DeltaTable

    return rows_table(pa.table(DeltaTable(destination).to_pyarrow_table()), output)


def rows_iceberg(destination, output):
    from pyiceberg.catalog import load_catalog

    house = destination.rpartition("/")[0]
    catalog = load_catalog("default", type="sql", uri=f"sqlite:///{house}/catalog.db")
    return rows_table(catalog.load_table("space.rows").scan().to_arrow(), output)


def rows_lance(destination, output):
    import lancedb

    table = lancedb.connect(destination.rpartition("/")[0]).open_table("rows")
    return rows_table(table.to_arrow(), output)


def rows_huggingface(destination, output):
    import datasets

    rows = datasets.load_dataset(destination, split="train", cache_dir=f"{destination}-cache")
    return rows_table(rows.with_format("arrow")[:], output)


def rows_indexes(destination, output):
    table = pq.read_table(f"{destination}/rows.parquet").to_pylist()
    return {
        row.pop("id"): (None, as_json({k: v for k, v in row.items() if v is not None}))
        for row in table
    }


def rows_qdrant(destination, output):
    from qdrant_client import QdrantClient

    client = QdrantClient(path=destination.rpartition("/")[0])
    points, _ = client.scroll("rows", limit=1000, with_vectors=True)
    found = {}
    for point in points:
        payload = dict(point.payload)
        assert payload.pop(PART_KEY).startswith("part-")
        (vector,) = point.vector.values()
        if output == "splade":
            vector = dict(zip(vector.indices, vector.values, strict=True))
        found[payload.pop("id")] = vector, payload
    client.close()
    return found


def rows_milvus(destination, output):
    found = {}
    for row in pq.read_table(destination).to_pylist():
        if output == "splade":
            vector = json.loads(row["sparse_embedding"])
        elif output == "half":
            vector = np.array(row["embedding"], np.uint8).view(np.float16).astype(np.float32)
        else:
            vector = row["embedding"]
        found[row["id"]] = vector, json.loads(row["$meta"])
    return found


def rows_seismic(destination, output):
    return {row["id"]: (row["vector"], {}) for row in json_lines(destination)}


def rows_ciff(destination, output):
    return {name: (vector, {}) for name, vector in read_ciff(destination).items()}


def ciff_messages():
    """The messages of https://github.com/osirrc/ciff, built by protobuf itself."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    fields = {
        "Header": ["version:5", "num_postings_lists:5", "num_docs:5", "total_postings_lists:5",
                   "total_docs:5", "total_terms_in_collection:3", "average_doclength:1",
                   "description:9"],
        "Posting": ["docid:5", "tf:5"],
        "PostingsList": ["term:9", "df:3", "cf:3", "postings:11"],
        "DocRecord": ["docid:5", "collection_docid:9", "doclength:5"],
    }  # fmt: skip
    file = descriptor_pb2.FileDescriptorProto(name="ciff.proto", package="ciff", syntax="proto3")
    for message, described in fields.items():
        kind = file.message_type.add(name=message)
        for number, (name, code) in enumerate((f.split(":") for f in described), start=1):
            field = kind.field.add(name=name, number=number, type=int(code), label=1)
            if code == "11":
                field.label, field.type_name = 3, ".ciff.Posting"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"ciff.{name}"))
        for name in ("Header", "PostingsList", "DocRecord")
    ]


def read_ciff(path):
    """{id: {index: impact}}, decoded by protobuf, with all counts compared."""
    from google.protobuf.internal.decoder import _DecodeVarint32

    data, position = Path(path).read_bytes(), 0

    def following(kind):
        nonlocal position
        size, position = _DecodeVarint32(data, position)
        message = kind.FromString(data[position : position + size])
        position += size
        return message

    header_kind, list_kind, record_kind = ciff_messages()
    header = following(header_kind)
    lists = [following(list_kind) for _ in range(header.num_postings_lists)]
    records = [following(record_kind) for _ in range(header.num_docs)]
    assert position == len(data)
    assert [record.docid for record in records] == list(range(header.num_docs))
    assert [found.term for found in lists] == sorted(found.term for found in lists)
    documents = [{} for _ in records]
    for found in lists:
        docid = 0
        for posting in found.postings:
            docid += posting.docid
            documents[docid][found.term] = posting.tf
        assert (found.df, found.cf) == (
            len(found.postings), sum(posting.tf for posting in found.postings)
        )  # fmt: skip
    lengths = [record.doclength for record in records]
    assert lengths == [sum(document.values()) for document in documents]
    assert (header.version, header.total_docs, header.total_postings_lists) == (
        1, len(records), len(lists)
    )  # fmt: skip
    assert header.total_terms_in_collection == sum(lengths)
    assert header.average_doclength == sum(lengths) / len(lengths)
    names = [record.collection_docid for record in records]
    return dict(zip(names, documents, strict=True))


ENGINES = {
    "qdrant": search_qdrant,
    "lance": search_lance,
    "faiss": search_faiss,
    "usearch": search_usearch,
    "milvus": search_milvus,
    "seismic": search_seismic,
}
READERS = {
    "vespa": rows_vespa,
    "elasticsearch": rows_bulk,
    "opensearch": rows_bulk,
    "anserini": rows_anserini,
    "pgvector": rows_pgvector,
    "pinecone": rows_pinecone,
    "delta": rows_delta,
    "iceberg": rows_iceberg,
    "lance": rows_lance,
    "huggingface": rows_huggingface,
    "faiss": rows_indexes,
    "usearch": rows_indexes,
    "qdrant": rows_qdrant,
    "milvus": rows_milvus,
    "seismic": rows_seismic,
    "ciff": rows_ciff,
}


def outputs_of(form):
    if form in SPARSE_ONLY:
        return ["splade"]
    return ["dense", "half"] if form in DENSE_ONLY else ["dense", "half", "splade"]


EVERY = [(form, output) for form in FORMS for output in outputs_of(form)]
# LanceDB does not search in sparse vectors; Milvus Lite is asked in float32.
ASKED = [
    (form, output)
    for form, output in EVERY
    if form in ENGINES and (form, output) not in (("lance", "splade"), ("milvus", "half"))
]


def test_every_export_format_has_a_reader_in_this_file():
    assert READERS.keys() == set(FORMS)


@pytest.mark.parametrize(("form", "output"), ASKED)
def test_engines_find_what_exact_search_finds(root, exported, form, output):
    search = ENGINES[form](exported(form, output), output)

    queries, expected = nearest(root, output)
    assert [search(query) for query in queries] == expected


@pytest.mark.parametrize(("form", "output"), EVERY)
def test_every_id_vector_and_column_comes_through(root, exported, form, output):
    found = READERS[form](exported(form, output), output)

    expected = rows_of(root, output)
    if form in ("qdrant", "delta", "iceberg"):  # which have no order
        found = {name: found[name] for name in expected if name in found}
    assert list(found) == list(expected)
    scale = 100 if output == "splade" and form in ("anserini", "ciff") else None
    for name, (vector, payload) in expected.items():
        assert_vector(found[name][0], vector, scale)
        assert found[name][1] == ({} if form in BARE else as_json(payload))


def assert_vector(found, expected, scale):
    """The same float32 numbers, bit for bit; impacts are rounded, and zeros left out."""
    if found is None:
        return
    if isinstance(expected, dict):
        found = {int(key): np.float32(value) for key, value in found.items()}
        if scale:
            expected = {i: round(np.float32(w) * np.float32(scale)) for i, w in expected.items()}
        assert found == {i: np.float32(w) for i, w in expected.items() if w}
    else:
        np.testing.assert_array_equal(np.asarray(found, np.float32), expected)


# What is killed goes on, and what is not right is refused.


_KILLED = """
import os, sys
from stx.pipelines.export import run_export
from stx.pipelines.exports import lakes, parts, vectors

parts.ROWS_PER_PART, lakes._BYTES_PER_COMMIT = 50, 1
vectors._ROWS_AT_ONCE = 20
read, calls = vectors.Vectors.batches, []

def batches(self):
    for number, batch in enumerate(read(self)):
        yield batch
        if len(calls) == 2:
            os._exit(9)
    calls.append(self)

vectors.Vectors.batches = batches
run_export(sys.argv[1], sys.argv[2], sys.argv[3], output="dense")
"""


@pytest.mark.faults
@pytest.mark.parametrize("form", ["qdrant", "lance", "delta", "iceberg", "vespa", "milvus"])
def test_a_killed_export_goes_on_with_what_is_missing(root, tmp_path, monkeypatch, form):
    """Killed within the third part: the first two are left as they are."""
    destination = place(form, tmp_path)
    command = [sys.executable, "-c", _KILLED, root, destination, form]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == 9
    read, seen = vectors.Vectors.batches, []
    monkeypatch.setattr(
        vectors.Vectors, "batches", lambda self: seen.append(self.file_rows) or read(self)
    )

    again = run_export(root, destination, form, output="dense")

    assert (seen, again) == ([(50,), (50,)], N_ROWS)
    found = READERS[form](destination, "dense")
    expected = rows_of(root, "dense")
    assert found.keys() == expected.keys()
    for name, (vector, payload) in expected.items():
        if form != "qdrant":
            np.testing.assert_array_equal(np.asarray(found[name][0], np.float32), vector)
        assert found[name][1] == as_json(payload)


@pytest.mark.parametrize(
    "form", [form for form in FORMS if form not in ("faiss", "usearch", "ciff")]
)
def test_a_finished_export_has_nothing_left_to_do(root, exported, monkeypatch, form):
    output = "splade" if form == "seismic" else "dense"
    destination = exported(form, output)
    monkeypatch.setattr(vectors.Vectors, "batches", lambda self: pytest.fail("read again"))

    assert run_export(root, destination, form, output=output) == N_ROWS
    assert len(READERS[form](destination, output)) == N_ROWS


@pytest.mark.parametrize("form", ["faiss", "usearch", "ciff"])
def test_an_existing_destination_file_is_not_overwritten(root, exported, form):
    output = "splade" if form == "ciff" else "dense"

    with pytest.raises(SpecError, match="exists; remove it"):
        run_export(root, exported(form, output), form, output=output)


@pytest.mark.parametrize("form", ["vespa", "lance", "delta", "iceberg", "huggingface"])
def test_a_destination_that_holds_another_export_is_refused(root, exported, form):
    with pytest.raises(SpecError, match="another|does not write"):
        run_export(root, exported(form, "dense"), form, output="dense", columns=("lang",))


def test_points_of_a_changed_dataset_are_replaced_by_id(tmp_path, static_model):
    models = {"dense": {"model": str(static_model)}}
    encode(tmp_path, "corpus", ["a", "b"], ["plants eat", "light"], models)
    run_export(str(tmp_path / "corpus"), place("qdrant", tmp_path), "qdrant")
    encode(tmp_path, "corpus", ["a", "b"], ["plants eat", "stars"], models)

    run_export(str(tmp_path / "corpus"), place("qdrant", tmp_path), "qdrant")

    found = rows_qdrant(place("qdrant", tmp_path), "dense")
    table = open_snapshot(str(tmp_path / "corpus")).to_table()
    star = dense_matrix(table["embedding"])[1]
    assert found.keys() == {"a", "b"}
    new = np.array(found["b"][0])
    assert new @ star == pytest.approx(np.linalg.norm(new) * np.linalg.norm(star))


def test_qdrant_keeps_the_last_row_of_a_duplicate_id(tmp_path, static_model):
    models = {"dense": {"model": str(static_model)}}
    path = encode(tmp_path, "corpus", ["a", "a"], ["plants", "stars"], models, {"n": [1, 2]})

    run_export(path, place("qdrant", tmp_path), "qdrant")

    assert rows_qdrant(place("qdrant", tmp_path), "dense")["a"][1] == {"n": 2}


def test_unavailable_qdrant_folders_and_servers_are_reported_in_one_line(stx, root, tmp_path):
    from qdrant_client import QdrantClient

    other = QdrantClient(path=str(tmp_path / "db"))
    used = stx("export", root, tmp_path / "db/rows", "--format", "qdrant", "--output", "dense")
    other.close()
    away = stx("export", root, "http://me:secret@127.0.0.1:1/rows", "--format", "qdrant",
               "--output", "dense")  # fmt: skip

    assert (used[0], away[0]) == (1, 1)
    assert "already accessed" in used[2]
    assert "Connection refused" in away[2]
    assert "secret" not in away[2]
    assert len(used[2].splitlines()) == len(away[2].splitlines()) == 1


def test_a_qdrant_collection_without_this_vector_is_refused(root, exported):
    with pytest.raises(SpecError, match="has no vector 'sparse_embedding'"):
        run_export(root, exported("qdrant", "dense"), "qdrant", output="splade")


def test_qdrant_servers_get_the_same_points_as_local_folders(root, tmp_path, monkeypatch):
    """A stand-in for the server: the answers that the client needs, and what it was asked."""
    asked = []
    answers = {"exists": {"exists": False}, "count": {"count": 0}}

    class Server(BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((self.command, self.path, self.headers["api-key"], body))
            word = self.path.partition("?")[0].rpartition("/")[2]
            result = answers.get(word, {"operation_id": 0, "status": "completed"})
            result = True if self.path.partition("?")[0] == "/collections/rows" else result
            text = json.dumps({"result": result, "status": "ok", "time": 0}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PUT = do_POST = answer  # noqa: N815  (names of http.server)

        def log_message(self, *arguments):
            pass

    monkeypatch.setenv("QDRANT_API_KEY", "key-of-the-test")
    monkeypatch.setattr(qdrant, "_POINTS_AT_ONCE", 50)
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Api key is used with an insecure connection")
            url = f"http://127.0.0.1:{server.server_port}/rows"
            assert run_export(root, url, "qdrant", output="half") == N_ROWS
        server.shutdown()

    assert {key for _, _, key, _ in asked} == {"key-of-the-test"}
    made = [
        json.loads(body)
        for verb, path, _, body in asked
        if (verb, path) == ("PUT", "/collections/rows")
    ]
    assert made[0]["vectors"] == {
        "embedding": {"size": 8, "distance": "Cosine", "datatype": "float16"}
    }
    index = [
        json.loads(body) for _, path, _, body in asked if path.startswith("/collections/rows/index")
    ]
    assert index == [{"field_name": PART_KEY, "field_schema": "keyword"}]
    sent = [
        json.loads(body)["batch"]
        for verb, path, _, body in asked
        if verb == "PUT" and path.startswith("/collections/rows/points")
    ]
    names = [row["id"] for batch in sent for row in batch["payloads"]]
    assert names == list(rows_of(root, "half"))
    assert [name for batch in sent for name in batch["ids"]] == [point_id(name) for name in names]


@pytest.mark.parametrize(
    ("form", "output", "told"),
    [
        *((form, "splade", "this output is sparse; .* takes dense vectors") for form in DENSE_ONLY),
        *((form, "dense", "this output is dense; .* takes sparse vectors") for form in SPARSE_ONLY),
    ],
)
def test_the_other_kind_of_vector_is_refused(root, tmp_path, form, output, told):
    with pytest.raises(SpecError, match=told):
        run_export(root, place(form, tmp_path), form, output=output)

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("form", "module", "extra"),
    [
        ("qdrant", "qdrant_client", "qdrant"),
        ("lance", "lancedb", "lance"),
        ("delta", "deltalake", "delta"),
        ("iceberg", "pyiceberg.catalog", "iceberg"),
        ("faiss", "faiss", "ann"),
        ("usearch", "usearch.index", "usearch"),
    ],
)
def test_a_missing_package_is_one_line_that_names_the_extra(
    stx, root, tmp_path, monkeypatch, form, module, extra
):
    monkeypatch.setitem(sys.modules, module, None)

    code, _, told = stx(
        "export", root, place(form, tmp_path), "--format", form, "--output", "dense"
    )

    assert (code, len(told.splitlines())) == (2, 1)
    assert f"pip install 'stx[{extra}]'" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["out", "--format", "vespa", "--columns", "lang,nope"], "no copied column 'nope'"),
        (["out", "--format", "seismic", "--columns", "lang"], "--columns goes with"),
        (["out", "--format", "vespa", "--recipe", "Flat"], "--recipe goes with faiss, not vespa"),
        (["out", "--format", "vespa", "--name", "a-b"], "'a-b': names in Vespa"),
        (["out", "--format", "faiss", "--recipe", "Nonsense"], "--recipe Nonsense: FAISS cannot"),
        (["out", "--format", "pinecone", "--name", "../x"], "is no name of a namespace"),
        (["out.txt", "--format", "lance"], "end the name in .lance"),
        (["rows", "--format", "iceberg"], "expected FOLDER/NAMESPACE.TABLE"),
        (["s3://a/b.c", "--format", "iceberg"], "name another one by --catalog"),
        (["rows", "--format", "qdrant"], "expected FOLDER/COLLECTION"),
        (["file", "--format", "vespa"], "file: is a file; name a folder"),
        (["file", "--format", "faiss"], "file: is a file; name a folder"),
    ],
)
def test_invalid_options_are_reported_in_one_line(
    stx, root, tmp_path, monkeypatch, arguments, told
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("precious")

    code, _, said = stx("export", root, *arguments, "--output", "dense")

    assert (code, told in said, len(said.splitlines())) == (2, True, 1), said


def test_copied_columns_are_chosen(stx, root, tmp_path):
    for chosen in ("year,good", ""):
        code, *_ = stx(
            *("export", root, tmp_path / f"out{chosen}", "--format", "elasticsearch"),
            *("--output", "dense", "--columns", chosen),
        )
        assert code == 0

    some = rows_bulk(tmp_path / "outyear,good", "dense")
    none = rows_bulk(tmp_path / "out", "dense")
    assert some["1e3"][1] == {"year": 1905, "good": False}
    assert none["1e3"][1] == {}


def test_integer_ids_become_strings(tmp_path, static_model):
    models = {"dense": {"model": str(static_model)}}
    path = encode(tmp_path, "corpus", [7, 2**60], ["plants", "stars"], models)

    for form in ("qdrant", "lance", "pinecone", "faiss"):
        run_export(path, place(form, tmp_path / form), form)
        assert READERS[form](place(form, tmp_path / form), "dense").keys() == {"7", str(2**60)}


def test_faiss_recipes_are_trained_on_rows_of_the_whole_dataset(root, tmp_path, monkeypatch):
    from stx.pipelines.exports import indexes

    monkeypatch.setattr(indexes, "_TRAINING_ROWS", 170)
    import faiss

    run_export(root, str(tmp_path / "out"), "faiss", output="dense", recipe="IVF4,Flat")

    index = faiss.read_index(str(tmp_path / "out/index.faiss"))
    index.nprobe = 4
    ids = pq.read_table(tmp_path / "out/rows.parquet")["id"].to_pylist()
    queries, expected = nearest(root, "dense")
    for query, names in zip(queries, expected, strict=True):
        assert [ids[row] for row in index.search(query[None], K)[1][0]] == names


def test_schema_files_beside_the_parts_create_the_index(root, tmp_path):
    dense, sparse = tmp_path / "dense", tmp_path / "sparse"
    for form in ("elasticsearch", "opensearch", "vespa", "pgvector"):
        run_export(root, str(dense / form), form, output="dense")
        run_export(root, str(sparse / form), form, output="splade")
    run_export(root, str(tmp_path / "half"), "pgvector", output="half", name='my"table')

    def fields(folder, form):
        mapping = json.loads((folder / form / "index.json").read_text())
        return mapping["mappings"]["properties"]

    # https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/dense-vector
    assert fields(dense, "elasticsearch")["embedding"] == {
        "type": "dense_vector", "dims": 8, "similarity": "cosine"
    }  # fmt: skip
    assert fields(sparse, "elasticsearch")["sparse_embedding"] == {"type": "sparse_vector"}
    assert fields(dense, "opensearch")["embedding"] == {
        "type": "knn_vector", "dimension": 8, "space_type": "cosinesimil"
    }  # fmt: skip
    assert fields(sparse, "opensearch")["sparse_embedding"] == {"type": "rank_features"}
    assert "tensor<float>(x[8])" in (dense / "vespa/documents.sd").read_text()
    assert "tensor<float>(term{})" in (sparse / "vespa/documents.sd").read_text()
    for folder in (dense, sparse):
        schema = (folder / "vespa/documents.sd").read_text()
        assert schema.count("{") == schema.count("}")
    copied = ('"lang" text, "year" bigint, "good" boolean, "weight" double precision, '
              '"tags" jsonb, "day" date')  # fmt: skip
    create = [
        (dense / "pgvector", "documents", "embedding vector(8)"),
        (sparse / "pgvector", "documents", "sparse_embedding sparsevec(1000000)"),
        (tmp_path / "half", 'my""table', "embedding halfvec(8)"),
    ]
    for folder, table, vector in create:
        line = f'CREATE TABLE "{table}" (id text PRIMARY KEY, {copied}, {vector});'
        assert (folder / "create.sql").read_text().splitlines()[1] == line


def test_import_files_have_the_types_that_engines_ask_for(root, tmp_path):
    """As pymilvus' LocalBulkWriter writes them, and as Pinecone documents them."""
    schemas = {}
    for form in ("milvus", "pinecone"):
        for output in ("dense", "half", "splade"):
            folder = tmp_path / form / output
            run_export(root, str(folder), form, output=output)
            schemas[form, output] = pq.read_schema(sorted(folder.rglob("*.parquet"))[0])

    def kinds(form, output):
        return [(field.name, str(field.type)) for field in schemas[form, output]]

    for output, column, kind in [
        ("dense", "embedding", "list<element: float>"),
        ("half", "embedding", "list<element: uint8>"),
        ("splade", "sparse_embedding", "string"),
    ]:
        assert kinds("milvus", output) == [("id", "string"), (column, kind), ("$meta", "string")]
    for output in ("dense", "half"):
        assert kinds("pinecone", output) == [
            ("id", "string"), ("values", "list<element: float>"), ("metadata", "string")
        ]  # fmt: skip
    sparse = "struct<indices: list<element: int64>, values: list<element: float>>"
    assert kinds("pinecone", "splade")[1] == ("sparse_values", sparse)


def test_sparse_dimensions_are_named_by_tokens_of_the_vocabulary(root, tmp_path, tiny_tokenizer):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_tokenizer / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    expected = rows_of(root, "splade")
    widest = max(max(vector) for vector, _ in expected.values())
    extended = str(tmp_path / "tokenizer.json")
    # The checkpoint is wider than its tokenizer, as many are.
    tokenizer.add_tokens([f"extra{i}" for i in range(size, widest + 1)])
    tokenizer.save(extended)

    run_export(root, str(tmp_path / "out"), "vespa", output="splade", vocabulary=extended)

    for name, (weights, _) in rows_vespa(tmp_path / "out", "splade").items():
        assert weights.keys() == {
            tokenizer.id_to_token(i) for i, w in expected[name][0].items() if w
        }
    with pytest.raises(SpecError, match=f"--vocabulary has {size} tokens"):
        run_export(root, str(tmp_path / "b.ciff"), "ciff", output="splade",
                   vocabulary=str(tiny_tokenizer / "tokenizer.json"))  # fmt: skip


def test_the_dataset_card_describes_the_vectors_without_local_paths(root, static_model, tmp_path):
    run_export(root, str(tmp_path / "out"), "huggingface", output="half")

    _, header, body = (tmp_path / "out/README.md").read_text().split("---\n", 2)

    assert yaml.safe_load(header) == {
        "configs": [{"config_name": "default", "data_files": "*.parquet"}],
        "size_categories": ["n<1K"],
        "tags": ["embeddings", "dense"],
        "task_categories": ["feature-extraction"],
    }
    for line in (
        "| rows | 200 |",
        "| dimensions | 8 |",
        "| dtype | float16 |",
        f"| model | {static_model.name} |",
    ):
        assert line in body
    assert str(static_model.parent) not in body


def test_impacts_rank_as_rounded_weights_do(root, exported):
    documents = read_ciff(exported("ciff", "splade"))

    queries, expected = nearest(root, "splade", scale=100)
    ids = list(documents)
    for query, names in zip(queries, expected, strict=True):
        assert ranked_sparse(ids, list(documents.values()), query) == names


@pytest.mark.parametrize("form", ["vespa", "elasticsearch", "pgvector", "pinecone", "huggingface"])
@pytest.mark.parametrize("output", ["dense", "splade"])
def test_exported_files_rank_as_exact_search_does(root, exported, form, output):
    found = READERS[form](exported(form, output), output)

    ids, rows = list(found), [vector for vector, _ in found.values()]
    rank = ranked_sparse if output == "splade" else ranked_dense
    queries, expected = nearest(root, output)
    assert [rank(ids, rows, query) for query in queries] == expected


def test_exports_to_s3_folders_resume(root, s3_root, monkeypatch):
    from stx_core.store.files.filesystem import list_sizes, remove
    from stx_core.store.files.urls import join

    destination = join(s3_root, "feed")
    run_export(root, destination, "elasticsearch", output="splade")
    whole = list_sizes(destination)
    remove(join(destination, sorted(whole)[1]))
    read, seen = vectors.Vectors.batches, []
    monkeypatch.setattr(vectors.Vectors, "batches", lambda self: seen.append(1) or read(self))

    run_export(root, destination, "elasticsearch", output="splade")

    assert (len(seen), list_sizes(destination)) == (1, whole)


@pytest.mark.parametrize("form", ["lance", "delta"])
def test_lake_tables_are_written_to_s3(root, s3_root, monkeypatch, form):
    import lancedb
    from deltalake import DeltaTable

    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    destination = f"{s3_root}/rows.lance"

    for _ in range(2):
        assert run_export(root, destination, form, output="dense") == N_ROWS

    if form == "delta":
        assert DeltaTable(destination).count() == N_ROWS
    else:
        assert lancedb.connect(s3_root).open_table("rows").count_rows() == N_ROWS


def test_values_that_a_format_cannot_hold_are_named(tmp_path, static_model):
    models = {"dense": {"model": str(static_model)}}
    for number, (column, form, told) in enumerate(
        [
            ([float("nan")], "vespa", "id 'a': a copied column cannot be written as JSON"),
            ([b"\x00"], "qdrant", "id 'a': a copied column cannot be written as JSON"),
            (["zero \0"], "pgvector", "PostgreSQL stores no zero bytes"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = encode(folder, "corpus", ["a"], ["stars"], models, {"x": column})
        with pytest.raises(InputError, match=told):
            run_export(path, place(form, folder), form)
    long = encode(tmp_path, "long", ["é" * 300], ["stars"], models)
    with pytest.raises(InputError, match="has more than 512 bytes"):
        run_export(long, str(tmp_path / "out"), "elasticsearch")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """A real server with pgvector, where the package pgserver is installed; not by stx[test]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pgserver = pytest.importorskip("pgserver")
        server = pgserver.get_server(tmp_path_factory.mktemp("pg"))
    yield server
    server.cleanup()


def test_postgresql_copies_the_files_and_finds_the_same_rows(root, exported, postgres):
    folder = Path(exported("pgvector", "dense"))
    postgres.psql((folder / "create.sql").read_text())
    for part in sorted(folder.glob("part-*.copy")):
        postgres.psql(f"\\copy documents from '{part}'")

    def ask(what):
        sql = f"\\t on\n\\pset format unaligned\nselect jsonb_agg({what};"
        return json.loads(postgres.psql(sql).strip().splitlines()[-1])

    rows = ask("to_jsonb(documents) - 'embedding') from documents")
    queries, expected = nearest(root, "dense")
    found = [
        ask(
            "id) from (select id from documents order by embedding <=> "
            f"'{json.dumps([float(x) for x in query])}' limit {K}) as best"
        )
        for query in queries
    ]

    assert found == expected
    read = {
        row["id"]: {key: value for key, value in row.items() if value is not None and key != "id"}
        for row in rows
    }
    assert read == {name: as_json(row) for name, (_, row) in rows_of(root, "dense").items()}


@pytest.fixture(scope="module")
def any_script(tmp_path_factory, static_model, splade_model):
    """A dataset whose ids are of no one script."""
    models = {
        "dense": {"model": str(static_model)},
        "splade": {"model": str(splade_model), "type": "sparse"},
    }
    return dataset_of(tmp_path_factory.mktemp("script"), ["ünï ☃", "日本"], models)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "pinecone"])
def test_ids_of_any_script_come_through(any_script, tmp_path, form):
    output = outputs_of(form)[0]
    run_export(any_script, place(form, tmp_path), form, output=output)

    assert {"ünï ☃", "日本", "0000"} < set(READERS[form](place(form, tmp_path), output))
