"""Rankings as the ``top_ranked`` part of an MTEB dataset."""

import json

import pyarrow.dataset as ds
import pyarrow.parquet as pq

from stx.pipelines.exports.new_file import new_file, new_lines
from stx.pipelines.exports.options import ExportOptions
from stx_core.errors import SpecError
from stx_core.evaluation.rankings import dataset_tables
from stx_core.evaluation.top_ranked import TOP_RANKED, top_ranked
from stx_core.evaluation.whole_queries import whole_queries
from stx_core.store.files.urls import redact
from stx_core.store.schema import write_options


def write_top_ranked(dataset: ds.Dataset, destination: str, options: ExportOptions) -> int:
    """Write a ranking as Parquet or JSON lines, by its name; gives the rows written.

    Raises:
        SpecError: the name has another ending.
        InputError: no ranking, or rows of a query do not stand together.
    """
    n_rows = 0
    tables = whole_queries(dataset_tables(dataset, options.source))
    if destination.endswith(".parquet"):
        settings = write_options(TOP_RANKED)
        with (
            new_file(destination) as path,
            pq.ParquetWriter(path, TOP_RANKED, **settings) as parquet,
        ):
            for table in tables:
                parquet.write_table(top_ranked(table))
                n_rows += len(table)
        return n_rows
    if not destination.endswith((".jsonl", ".jsonl.gz")):
        raise SpecError(f"{redact(destination)}: end the name in .parquet, .jsonl or .jsonl.gz")
    with new_lines(destination) as stream:
        for table in tables:
            for row in top_ranked(table).to_pylist():
                stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            n_rows += len(table)
    return n_rows
