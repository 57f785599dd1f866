"""Files that a path names, and the form in which each is written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import pyarrow as pa

from stx_core.errors import InputError
from stx_core.evaluation.delimited import Layout, read_delimited
from stx_core.evaluation.records import NAMES, Convert, read_jsonl, read_parquet
from stx_core.evaluation.text_blocks import first_line
from stx_core.store.corpus.table_folders import refuse_tables
from stx_core.store.files.listing import list_files
from stx_core.store.files.urls import redact

_ENDINGS = {".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def read_tables(
    url: str,
    format: str | None,
    layouts: Mapping[str, Sequence[Layout]],
    convert_of: Callable[[str, list[str]], Convert],
) -> Iterator[pa.Table]:
    """Read one file of any form, table by table.

    Args:
        url: the file.
        format: ``parquet``, ``jsonl`` or a name of `layouts`; None to tell by the file's name,
            else by its first line.
        layouts: forms of lines, and the layouts of each, in the order in which they are tried.
        convert_of: given the URL, for messages, and the columns that the file has (names of
            `records.NAMES`), gives what takes a table of these to the wanted columns.

    Raises:
        InputError: the file is absent, its form unknown, or a line or row is bad; names it.
    """
    convert_these = partial(convert_of, url)
    try:
        name = url.lower().removesuffix(".gz")
        by_ending = (form for ending, form in _ENDINGS.items() if name.endswith(ending))
        format = format or next(by_ending, None)
        if format == "parquet":
            yield from read_parquet(url, convert_these)
        elif format == "jsonl":
            yield from read_jsonl(url, convert_these)
        elif (layout := _layout(url, format, layouts)) is not None:
            yield from read_delimited(url, layout, convert_these)
    except FileNotFoundError as error:
        raise InputError(f"{redact(url)}: no such file") from error


def _layout(url: str, format: str | None, layouts: Mapping[str, Sequence[Layout]]) -> Layout | None:
    """Layout of a file of lines; None if it is empty."""
    forms = ", ".join(sorted({"parquet", "jsonl", *layouts}))
    if format is not None and format not in layouts:
        raise InputError(f"unknown format {format!r}; one of {forms}")
    line = first_line(url)
    if not line:
        return None
    for name in layouts if format is None else [format]:
        for candidate in layouts[name]:
            if (layout := candidate.of_file(line)) is not None:
                return layout
    shown = line.decode(errors="replace")[:100]
    problem = f"not of the form {format}" if format else "of no known form"
    raise InputError(f"{redact(url)}: the first line, {shown!r}, is {problem}; known are {forms}")


def list_parts(path: str) -> list[str]:
    """URLs of a file, of the files of a folder, or of what a glob matches, sorted.

    Raises:
        InputError: there are none, or they belong to a table (`refuse_tables`).
    """
    try:
        urls = [file.url for file in list_files(path)]
    except FileNotFoundError as error:
        raise InputError(str(error)) from error
    if not urls:
        raise InputError(f"{redact(path)}: the folder holds no files")
    refuse_tables(urls)
    return urls


def require(url: str, names: Sequence[str], *needed: str) -> None:
    """Check that a file has a column under one of the names that it may have.

    Raises:
        InputError: it has not.
    """
    for name in needed:
        if name not in names:
            raise InputError(
                f"{redact(url)}: needs a column {' or '.join(NAMES[name])}; rename yours"
            )
