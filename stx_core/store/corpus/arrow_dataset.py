"""Rows of a folder saved by `datasets`, or of a dataset of the Hugging Face hub."""

import functools
import json
import os
import re
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from stx_core.errors import InputError, SpecError
from stx_core.store.corpus.select_rows import Selection, concat, reject_large, select_rows
from stx_core.store.corpus.shards import Rows, Shard, partitions, with_partitions
from stx_core.store.corpus.units import Unit
from stx_core.store.files.filesystem import FileInfo
from stx_core.store.files.urls import LOCAL, local_path, normal, redact, scheme

HUB = "hf-dataset"
_HUB_WORD = re.compile(r"(?!\.)[^/\\:\s]+")

_BATCH_ROWS = 8192


def is_dataset(url: str) -> bool:
    """Tell whether a URL names a hub dataset or a local folder written by ``save_to_disk``."""
    if scheme(url) == HUB:
        return True
    if scheme(url) != LOCAL:
        return False
    folder = local_path(url)
    markers = ("state.json", "dataset_dict.json")
    return any(os.path.isfile(os.path.join(folder, marker)) for marker in markers)


def describe(url: str) -> FileInfo:
    """Give a dataset the identity that `datasets` gives it: a hash of its origin and changes."""
    dataset = _open(normal(url))
    return FileInfo(normal(url), int(dataset.dataset_size or 0), dataset._fingerprint)


@functools.lru_cache(maxsize=8)
def _open(url: str) -> Any:  # noqa: ANN401  (a datasets.Dataset, mapped into memory)
    try:
        import datasets
    except ImportError as error:
        raise SpecError(f"{redact(url)} needs `datasets`: pip install 'stx[hf]'") from error
    if scheme(url) == HUB:
        # hf-dataset://[owner/]name/config/split; "default" is the config of most datasets.
        parts = [unquote(part) for part in url.split("://", 1)[1].split("/")]
        # A name with "%2F" in it could be a path or a URL: `datasets` would open those too.
        if len(parts) not in (3, 4) or not all(map(_HUB_WORD.fullmatch, parts)):
            raise SpecError(
                f"{redact(url)}: expected hf-dataset://owner/name/config/split (config is often "
                "'default')"
            )
        return datasets.load_dataset("/".join(parts[:-2]), parts[-2], split=parts[-1])
    try:
        splits = _read_json(url, "dataset_dict.json").get("splits")
        if splits is None:
            state = _read_json(url, "state.json")
            if state["_data_files"]:
                return datasets.load_from_disk(url)
            # A dataset without rows is saved without a file, and its own package cannot load that.
            features = datasets.DatasetInfo.from_directory(url).features or {}
            empty = datasets.Dataset.from_dict({name: [] for name in features}, features or None)
            empty._fingerprint = state["_fingerprint"]
            return empty
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise InputError(f"{redact(url)}: no whole datasets folder ({error})") from error
    names = ", ".join(f"{redact(url)}/{split}" for split in splits)
    raise InputError(f"{redact(url)} holds several splits; name one: {names}")


def _read_json(url: str, name: str) -> Any:  # noqa: ANN401
    """Content of a JSON file of a folder; {} where it is absent."""
    path = os.path.join(local_path(url), name)
    if not os.path.isfile(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def shard(file: FileInfo) -> Shard:
    """Describe a dataset; reading may start at any row."""
    dataset = _open(file.url)
    schema = with_partitions(dataset.features.arrow_schema.remove_metadata(), file.url)
    n_rows = len(dataset)
    edges = (0, n_rows)
    return Shard(file.url, file.identity, "arrow", n_rows=n_rows, boundaries=edges, schema=schema)


def read(unit: Unit, selection: Selection) -> Rows:
    """Read the row range of a unit."""
    dataset = _open(unit.url)
    names = selection.columns_outside(partitions(unit.url))
    if missing := [name for name in names if name not in dataset.column_names]:
        raise InputError(
            f"{redact(unit.url)}: no column {missing[0]!r}; it has {dataset.column_names}"
        )
    as_arrow = dataset.with_format("arrow")
    parts: list[Rows] = []
    for start in range(unit.start, unit.stop, _BATCH_ROWS):
        stop = min(start + _BATCH_ROWS, unit.stop)
        table = as_arrow[start:stop].select(names)
        rows = np.arange(start, stop, dtype=np.int64)
        parts.append(select_rows(table, rows, selection, unit.url))
    rows_read = concat(parts, selection.schema)
    return reject_large(rows_read, selection.id_column, selection.max_bytes)
