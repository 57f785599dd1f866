"""A sample encoded again: it agrees where nothing changed, and tells what did."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from stx.jobs.cli import application
from stx.pipelines.encode import run_encode
from stx.pipelines.verify import encode_again
from stx_core.errors import StoreError
from stx_core.store.schema import dense_column, dense_matrix, sparse_column, sparse_csr
from stx_core.store.snapshot import snapshot_files


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out")


def rewrite(out, output, change):
    """Replace the vectors of all files of an output, behind the back of the manifest."""
    for file in snapshot_files(out, output=output):
        table = pq.read_table(file)
        (name,) = {"embedding", "sparse_embedding"} & set(table.schema.names)
        place = table.schema.get_field_index(name)
        pq.write_table(table.set_column(place, name, change(table[name])), file)


def test_rows_encoded_again_are_the_stored_ones(corpus, spec_of, out, splade_model):
    models = {"splade": {"model": str(splade_model), "type": "sparse"}}
    run_encode(spec_of(corpus, models=models))

    dense, sparse = encode_again(out, 40)

    assert (dense.output, dense.n_rows, sparse.output, sparse.n_rows) == ("dense", 40, "splade", 40)
    assert dense.cosines.min() > 0.99999
    assert sparse.difference < 1e-5
    assert dense.is_same
    assert sparse.is_same
    assert dense.unread == sparse.unread == ()


def test_more_rows_than_there_are_means_all_of_them(corpus, spec_of, out):
    run_encode(spec_of(corpus))

    (dense,) = encode_again(out, 10_000)

    assert dense.n_rows == 250


def test_lines_joined_texts_and_filters_are_read_as_they_were(spec_of, out, tmp_path):
    lines = tmp_path / "docs.jsonl"
    row = '{{"id": {0}, "title": "plants {0}", "body": "eat light", "n": {0}}}\n'
    lines.write_text("".join(row.format(i) for i in range(50)))
    inputs = {"text_column": ["title", "body"], "filter": [["n", ">=", 20]]}
    run_encode(spec_of(lines, inputs=inputs, resources={"rows_per_unit": 16}))

    (dense,) = encode_again(out, 100)

    assert (dense.n_rows, dense.unread) == (30, ())
    assert dense.is_same


def test_swapped_vectors_are_reported(corpus, spec_of, out):
    run_encode(spec_of(corpus))
    rewrite(out, "dense", lambda column: dense_column(np.roll(dense_matrix(column), 1, axis=0)))

    (dense,) = encode_again(out, 50)

    assert dense.cosines.min() < 0.9
    assert not dense.is_same


def test_changed_sparse_weights_are_reported(corpus, spec_of, out, splade_model):
    run_encode(spec_of(corpus, models={"dense": {"model": str(splade_model), "type": "sparse"}}))

    def louder(column):
        offsets, indices, values = sparse_csr(column)
        return sparse_column(offsets, indices, values + 0.5)

    rewrite(out, "dense", louder)

    (sparse,) = encode_again(out, 20)

    assert sparse.difference == pytest.approx(0.5, abs=1e-4)
    assert not sparse.is_same


def test_a_text_missing_from_its_shard_is_reported(corpus, spec_of, out):
    run_encode(spec_of(corpus))
    for file in snapshot_files(out):
        table = pq.read_table(file)
        place = table.schema.get_field_index("content_hash")
        hashes = pa.array(["0" * 32] * len(table))
        pq.write_table(table.set_column(place, "content_hash", hashes), file)

    (dense,) = encode_again(out, 20)

    assert (dense.n_rows, dense.n_foreign) == (0, 20)
    assert not dense.is_same


def test_a_changed_input_is_reported_but_not_as_damage(corpus, spec_of, out):
    run_encode(spec_of(corpus))
    shard = corpus / "part-0.parquet"
    pq.write_table(pq.read_table(shard).slice(1), shard)

    (dense,) = encode_again(out, 10_000)

    assert dense.n_rows == 150
    assert len(dense.unread) == 100
    assert "changed since it was planned" in dense.unread[0]
    assert dense.is_same


def test_an_unknown_output_is_refused(corpus, spec_of, out):
    run_encode(spec_of(corpus))

    with pytest.raises(StoreError, match="no output 'splade'; name one of dense"):
        list(encode_again(out, 1, output="splade"))


def verify(*arguments):
    return CliRunner().invoke(application(), ["verify", *map(str, arguments)])


def test_the_command_says_that_all_is_as_written(corpus, spec_of, out):
    run_encode(spec_of(corpus))

    done = verify(out, "--reencode", 5)

    assert done.exit_code == 0
    assert "version 1, 250 rows, 5 files: all as written" in done.output
    assert "dense: 5 rows encoded again, cosine 1.000000 on average" in done.output


def test_the_command_ends_with_1_and_a_line_per_problem(corpus, spec_of, out):
    run_encode(spec_of(corpus))
    damaged, missing, *_ = snapshot_files(out)
    with open(damaged, "r+b") as file:
        file.write(b"X")
    os.unlink(missing)

    done = verify(out)

    assert done.exit_code == 1
    assert done.output.count("\n") == 3
    assert f"{damaged}: its bytes have checksum" in done.output
    assert f"{missing}: missing" in done.output
    assert "2 problems" in done.output
