"""A corpus in BEIR form is encoded as it is."""

import gzip
import json

import pyarrow as pa
import pytest

from stx.pipelines.encode import run_encode
from stx.pipelines.planning.corpus import content_hashes
from stx_core.models.sentence_transformer import SentenceTransformer
from stx_core.store.schema import dense_matrix
from stx_core.store.snapshot import open_snapshot

ROWS = [
    {"_id": f"doc/{row}", "title": title, "text": text, "metadata": {}}
    for row, (title, text) in enumerate(
        [("plants", "eat light"), ("", "rivers carry sand"), ("glass", ""), ("", "")] * 40
    )
]


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_a_beir_corpus_is_encoded_as_it_is(tmp_path, spec_of, static_model, name):
    data = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    inputs = {"id_column": "_id", "text_column": ["title", "text"], "text_separator": " "}

    run_encode(spec_of(tmp_path / name, inputs=inputs))

    table = open_snapshot(str(tmp_path / "out")).to_table()
    # Neither title nor text: quarantined as empty.
    kept = [row for row in ROWS if row["title"] or row["text"]]
    assert table["id"].to_pylist() == [row["_id"] for row in kept]
    # As BEIR and Sentence Transformers join them.
    texts = [f"{row['title']} {row['text']}".strip() for row in kept]
    hashes = content_hashes(pa.chunked_array([texts]))
    assert table["content_hash"].to_pylist() == hashes.to_pylist()
    expected = SentenceTransformer(static_model, device="cpu").encode(texts)
    assert dense_matrix(table["embedding"]) == pytest.approx(expected, abs=1e-6)
