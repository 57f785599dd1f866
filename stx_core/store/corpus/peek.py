"""A first look at a corpus: its columns, without reading it through."""

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import pyarrow as pa

from stx_core.errors import InputError
from stx_core.store.corpus import arrow_dataset
from stx_core.store.corpus.csv_rows import header
from stx_core.store.corpus.foreign import refuse_foreign
from stx_core.store.corpus.json_scan import scan
from stx_core.store.corpus.json_types import type_of
from stx_core.store.corpus.lines import open_lines, read_line
from stx_core.store.corpus.readers import find_files, format_of, shard_rows
from stx_core.store.corpus.shards import CsvForm, Format, with_partitions
from stx_core.store.files.filesystem import FileInfo
from stx_core.store.files.retries import retry

_LINES = 100
_LINE_BYTES = 1 << 20

_DELIMITERS = ",;\t|"


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
        delimiter: of a CSV file, what splits its first line, where nobody said it and the usual one
            does not; None else.
    """

    url: str
    format: Format
    n_files: int
    n_bytes: int
    columns: dict[str, str]
    delimiter: str | None = None


def peek(
    urls: Sequence[str],
    format: Format | None = None,
    csv: CsvForm = CsvForm(),  # noqa: B008  (frozen)
) -> Peek:
    """Look at the first file of a corpus.

    Args:
        urls: files, folders, globs, as `stx_core.store.corpus.readers.list_shards` takes them.
        format: of all of them; None to tell by name.
        csv: of CSV files.

    Raises:
        InputError: nothing is there, or the first file cannot be read.
    """
    files = [file for url in urls for file in find_files(url, format)]
    first = min(files, key=lambda file: file.url)
    if format is None:
        format = "arrow" if arrow_dataset.is_dataset(first.url) else format_of(first.url)
    if format in ("jsonl", "csv"):
        schema, delimiter = retry(lambda: _look_at_lines(first, format, csv), first.url)
    else:
        schema, delimiter = shard_rows(first, format).schema, None
    columns = {field.name: str(field.type) for field in with_partitions(schema, first.url)}
    n_bytes = sum(file.size or 0 for file in files)
    return Peek(
        first.url, format, len(files), n_bytes=n_bytes, columns=columns, delimiter=delimiter
    )


def _look_at_lines(file: FileInfo, format: Format, csv: CsvForm) -> tuple[pa.Schema, str | None]:
    """Columns of a file, and `Peek.delimiter`."""
    with open_lines(file.url) as stream:
        refuse_foreign(stream, file.url)
        lines = [read_line(stream, _LINE_BYTES)[0] or b"" for _ in range(_LINES)]
    if format == "jsonl":
        seen = scan(io.BytesIO(b"".join(lines)), _LINE_BYTES, _LINES, None)
        kinds = {name: type_of(profile, name) for name, profile in seen.profiles.items()}
        return pa.schema([(name, kinds.get(name, pa.null())) for name in seen.names]), None
    head = io.BytesIO(b"".join(lines))
    names: dict[str | None, list[str]] = {}
    others = set(_DELIMITERS) - {csv.quote, csv.escape}
    for delimiter in (csv.delimiter, *(() if csv.delimiter or csv.columns else sorted(others))):
        with suppress(InputError):
            form = replace(csv, delimiter=delimiter)
            names[delimiter] = header(head, file.url, form, _LINE_BYTES)[0]
    # The usual delimiter first; of the others that which makes most columns.
    guess = max(names, key=lambda each: len(names[each]), default=None)
    if len(names.get(csv.delimiter, ())) > 1 or len(names.get(guess, ())) <= 1:
        guess = csv.delimiter
        names[guess] = header(head, file.url, csv, _LINE_BYTES)[0]
    schema = pa.schema([(name, pa.string()) for name in names[guess]])
    return schema, None if guess == csv.delimiter else guess
