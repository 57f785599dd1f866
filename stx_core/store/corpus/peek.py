"""A first look at a corpus: its columns, without reading it through."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from stx_core.store.corpus import arrow_dataset, parquet
from stx_core.store.corpus.foreign import refuse_foreign
from stx_core.store.corpus.json_scan import scan
from stx_core.store.corpus.json_types import type_of
from stx_core.store.corpus.lines import open_lines, read_line
from stx_core.store.corpus.readers import find_files, format_of
from stx_core.store.corpus.shards import Format, with_partitions
from stx_core.store.files.filesystem import FileInfo
from stx_core.store.files.retries import retry

_LINES = 100
_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class Peek:
    """What the first file of a corpus tells of all of them.

    Attributes:
        url: of that file.
        format: of it.
        n_files: of the corpus.
        n_bytes: of all its files; 0 of a saved dataset.
        columns: types by name, in the order of the file, hive partitions last. Of lines: as the
            first hundred have them.
    """

    url: str
    format: Format
    n_files: int
    n_bytes: int
    columns: dict[str, str]


def peek(urls: Sequence[str], format: Format | None = None) -> Peek:
    """Look at the first file of a corpus.

    Args:
        urls: files, folders, globs, as `stx_core.store.corpus.readers.list_shards` takes them.
        format: of all of them; None to tell by name.

    Raises:
        InputError: nothing is there, or the first file cannot be read.
    """
    files = [file for url in urls for file in find_files(url, format)]
    first = min(files, key=lambda file: file.url)
    if format is None:
        format = "arrow" if arrow_dataset.is_dataset(first.url) else format_of(first.url)
    schema = retry(lambda: _schema(first, format), first.url)
    columns = {field.name: str(field.type) for field in with_partitions(schema, first.url)}
    return Peek(first.url, format, len(files), sum(file.size or 0 for file in files), columns)


def _schema(file: FileInfo, format: Format) -> pa.Schema:
    if format == "parquet":
        return parquet.shard(file).schema
    if format == "arrow":
        return arrow_dataset.shard(file).schema
    with open_lines(file.url) as stream:
        refuse_foreign(stream, file.url)
        lines = [read_line(stream, _LINE_BYTES)[0] or b"" for _ in range(_LINES)]
    if format == "jsonl":
        seen = scan(io.BytesIO(b"".join(lines)), _LINE_BYTES, _LINES, None)
        kinds = {name: type_of(profile, name) for name, profile in seen.profiles.items()}
        return pa.schema([(name, kinds.get(name, pa.null())) for name in seen.names])
    text = b"".join(lines).decode("utf-8-sig", errors="replace")
    delimiter = "\t" if file.url.lower().removesuffix(".gz").endswith(".tsv") else ","
    names = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    return pa.schema([(name, pa.string()) for name in names])
