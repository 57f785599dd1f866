"""A folder as the Hugging Face hub has datasets: Parquet files and a card."""

import os
from functools import partial

import pyarrow.dataset as ds
import yaml

from stx.pipelines.exports.options import ExportOptions
from stx.pipelines.exports.tables import table_of, table_schema, write_table_parts
from stx.pipelines.exports.vectors import Vectors, open_vectors
from stx_core.page import markdown_text
from stx_core.store.schema import write_options

# The hub asks for files of some hundred MB, and at most 10,000 of them in a folder.
_BYTES_PER_PART = 256 * 2**20

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"),
          (10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"))  # fmt: skip


def write_huggingface(
    dataset: ds.FileSystemDataset, destination: str, options: ExportOptions
) -> int:
    """Write Parquet files and ``README.md``, the card; gives the rows. See `write_parts`.

    Columns are ``id``, the copied ones, and the vector. An id that occurs twice is two rows.
    """
    vectors = open_vectors(dataset, options, "huggingface", "dense", "sparse")
    schema = table_schema(vectors)
    return write_table_parts(
        vectors,
        destination,
        schema,
        partial(table_of, schema=schema),
        beside={"README.md": _card(vectors).encode()},
        rows_per_part=vectors.rows_in(_BYTES_PER_PART),
        **write_options(schema),
    )


def _card(vectors: Vectors) -> str:
    """The card: what machines read, then what people do."""
    n_rows = vectors.n_rows
    size = next((name for most, name in _SIZES if n_rows < most), "n>1B")
    header = {
        "configs": [{"config_name": "default", "data_files": "*.parquet"}],
        "size_categories": [size],
        "tags": ["embeddings", vectors.kind],
        "task_categories": ["feature-extraction"],
    }
    facts = vectors.options.facts
    settings, model = facts.get("settings", {}), str(facts["model"])
    rows = (
        ("rows", f"{n_rows:,}"),
        # A local path is nobody's business; its last part says which model it is.
        ("model", os.path.basename(model.rstrip("/")) if os.path.isabs(model) else model),
        ("revision", settings.get("revision")),
        ("fingerprint", facts["fingerprint"]),
        ("vectors", vectors.column),
        ("dimensions", vectors.dim if vectors.kind == "dense" else "by vocabulary, sparse"),
        ("dtype", facts.get("store_as")),
        ("compared by", vectors.similarity),
        ("encoded as", settings.get("task")),
        ("prompt", settings.get("prompt")),
        ("longest text, tokens", settings.get("max_seq_length")),
        ("normalised", settings.get("normalize")),
    )
    table = "".join(
        f"| {name} | {markdown_text(str(value))} |\n" for name, value in rows if value is not None
    )
    return (
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n# Embeddings\n\n"
        f"| | |\n|---|---|\n{table}\n"
        "```python\nfrom datasets import load_dataset\n\n"
        'rows = load_dataset("PATH OR NAME OF THIS DATASET", split="train")\n'
        f'print(rows[0]["id"], rows[0]["{vectors.column}"])\n```\n'
    )
