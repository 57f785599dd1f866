"""Any output as JSON lines, one row each: what most trainers read."""

import pyarrow.dataset as ds

from stx.pipelines.exports.new_file import new_lines
from stx.pipelines.exports.options import ExportOptions
from stx.pipelines.exports.payload import json_rows, to_json
from stx_core.errors import InputError, SpecError
from stx_core.store.data_file import read_batches
from stx_core.store.files.urls import redact

_ROWS_AT_ONCE = 1024


def write_jsonl(dataset: ds.FileSystemDataset, destination: str, options: ExportOptions) -> int:
    """Write the rows as JSON lines, by gzip if the name ends so; gives the rows written.

    Values as `json_rows` has them. Memory is some thousand rows.

    Raises:
        SpecError: the name has another ending.
        InputError: a value that JSON does not have: bytes, NaN or infinity.
    """
    if not destination.endswith((".jsonl", ".jsonl.gz")):
        raise SpecError(f"{redact(destination)}: end the name in .jsonl or .jsonl.gz")
    n_rows = 0
    with new_lines(destination) as stream:
        for batch in read_batches(dataset, None, _ROWS_AT_ONCE):
            lines = []
            for number, row in enumerate(json_rows(batch), start=n_rows):
                try:
                    lines.append(f"{to_json(row)}\n")
                except (TypeError, ValueError) as error:
                    raise InputError(
                        f"{redact(options.source)} row {number}: cannot be written as JSON "
                        f"({error}); export it as parquet"
                    ) from None
            stream.write("".join(lines).encode())
            n_rows += len(batch)
    return n_rows
