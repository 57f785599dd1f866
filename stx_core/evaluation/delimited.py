"""Files of columns between tabs or spaces: TREC, BEIR and MS MARCO forms."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.csv

from stx_core.evaluation.records import Convert
from stx_core.evaluation.text_blocks import parse_blocks
from stx_core.store.buffers import owned


@dataclass(frozen=True)
class Layout:
    """Columns of a file.

    Attributes:
        columns: name and type of each; an empty name is not read.
        tabs: columns stand between single tabs; else between any number of spaces and tabs.
        has_header: the first line holds names. Of a layout to choose from: it may, and does
            where its last field is no number.
    """

    columns: tuple[tuple[str, pa.DataType], ...]
    tabs: bool
    has_header: bool = False

    def of_file(self, first_line: bytes) -> "Layout | None":
        """The layout of a file that begins with this line; None if it has other columns."""
        fields = first_line.split(b"\t" if self.tabs else None)
        if len(fields) != len(self.columns):
            return None
        if not self.has_header:
            return self
        try:
            float(fields[-1])
        except ValueError:
            return self
        return replace(self, has_header=False)


def read_delimited(
    url: str, layout: Layout, convert_of: Callable[[list[str]], Convert]
) -> Iterator[pa.Table]:
    """Read a file, some 8 MiB at a time.

    Args:
        url: the file.
        layout: its columns.
        convert_of: see `records.read_parquet`.

    Raises:
        InputError: a line does not fit the layout, or is refused; names it.
    """
    convert = convert_of([name for name, _ in layout.columns if name])
    names = (name or "…" for name, _ in layout.columns)
    expected = ("<tab>" if layout.tabs else " ").join(names)
    header_is_next = layout.has_header

    def parse(data: bytes) -> pa.Table:
        if header_is_next:
            # Blank, so that lines keep their numbers.
            _, _, rest = data.lstrip(b"\n").partition(b"\n")
            data = b"\n" * (data.count(b"\n") - rest.count(b"\n")) + rest
        return convert(_parse(data, layout))

    for table in parse_blocks(url, parse, expected):
        header_is_next = False
        yield table


def _parse(data: bytes, layout: Layout) -> pa.Table:
    if not layout.tabs:
        # One space between columns, none around lines: what a parser of CSV can split.
        # `bytes.replace` does a gigabyte a second, a regular expression fifty times less.
        data = b"\n" + data.replace(b"\t", b" ") + b"\n"
        while b"  " in data:
            data = data.replace(b"  ", b" ")
        data = data.replace(b"\n ", b"\n").replace(b" \n", b"\n")[1:-1]
    names = [name or f"unread {index}" for index, (name, _) in enumerate(layout.columns)]
    include = [name for name, _ in layout.columns if name]
    if not data.strip(b"\n"):
        return pa.schema([column for column in layout.columns if column[0]]).empty_table()
    return pa.csv.read_csv(
        pa.BufferReader(owned(data)),
        pa.csv.ReadOptions(column_names=names, block_size=1 << 20),
        pa.csv.ParseOptions(
            delimiter="\t" if layout.tabs else " ", quote_char=False, double_quote=False
        ),
        pa.csv.ConvertOptions(
            column_types=dict(zip(names, (kind for _, kind in layout.columns), strict=True)),
            include_columns=include,
            null_values=[],
            strings_can_be_null=False,
        ),
    )
