"""A Parquet file, opened: its footer, and what can be known of its columns without reading them."""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stx_core.errors import InputError
from stx_core.store.corpus.parquet_footer import Leaf, column_problems
from stx_core.store.files.filesystem import open_file
from stx_core.store.files.retries import answer
from stx_core.store.files.urls import redact

# A footer is at the end, before its length and four letters; most are shorter than this.
_TAIL_BYTES = 1 << 16
_MAGIC, _ENCRYPTED_MAGIC = b"PAR1", b"PARE"

# What the key of a footer's Arrow schema becomes where pyarrow cannot read that schema.
_LOST = b"-ARROW:schem"

# Encodings that pyarrow can hand out as a dictionary; the last two are of levels, not of values.
_DICTIONARIES = {"PLAIN_DICTIONARY", "RLE_DICTIONARY"}
_AS_DICTIONARY = {*_DICTIONARIES, "PLAIN", "RLE", "BIT_PACKED"}
# Encodings in which few bytes of a page can stand for long strings of many rows.
_SHORT = {*_DICTIONARIES, "DELTA_BYTE_ARRAY"}


@dataclass(frozen=True)
class ParquetSource:
    """An open file.

    Attributes:
        file: to read from.
        url: of it, for messages.
        footer: as it is in the file.
        metadata: the same, parsed. Of its columns only those may be looked at that `check_readable`
            has seen.
    """

    file: Any
    url: str
    footer: bytes
    metadata: pq.FileMetaData

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns as Arrow has them; INT96 as microseconds, as Spark does: years 1 to 9999 fit."""
        return self.open().schema_arrow.remove_metadata()

    @property
    def described(self) -> pa.Schema:
        """`schema`, in which what only a lost Arrow schema could explain is opaque."""
        if _LOST not in (self.metadata.metadata or {}):
            return self.schema
        fields = [
            field.with_type(pa.opaque(field.type, "a type that pyarrow lacks", "another writer"))
            if pa.types.is_fixed_size_binary(field.type)
            else field
            for field in self.schema
        ]
        return pa.schema(fields)

    @cached_property
    def leaves(self) -> dict[str, tuple[int, ...]]:
        """Numbers of the Parquet columns that make up each column; of equal names, the first."""
        leaves: dict[str, tuple[int, ...]] = {}
        first = 0
        for field in self.schema:
            kinds = _inside(field.type)
            stop = first + sum(not pa.types.is_nested(kind) for kind in kinds)
            leaves.setdefault(field.name, tuple(range(first, stop)))
            first = stop
        return leaves

    def open(
        self, *, as_dictionaries: Sequence[str] = (), int96_unit: str = "us"
    ) -> pq.ParquetFile:
        """A reader of the file, which verifies checksums of pages where there are some.

        Args:
            as_dictionaries: paths of Parquet columns to read as dictionaries.
            int96_unit: of times in INT96.
        """
        return pq.ParquetFile(
            self.file,
            metadata=self.metadata,
            pre_buffer=True,
            read_dictionary=list(as_dictionaries),
            coerce_int96_timestamp_unit=int96_unit,
            page_checksum_verification=True,
        )

    def check_readable(self, names: Sequence[str]) -> None:
        """Refuse columns that are encrypted or damaged, and those of which there are two.

        Raises:
            InputError: names the column.
        """
        every = self.schema.names
        for name in names:
            if every.count(name) > 1:
                raise InputError(
                    f"{redact(self.url)}: two columns are named {name!r}; rename one of them"
                )
        schema = self.metadata.schema
        leaves = tuple(
            Leaf(
                column.physical_type,
                column.length,
                column.max_repetition_level,
                column.max_definition_level,
            )
            for column in map(schema.column, range(len(schema)))
        )
        size, n_groups = self.metadata.serialized_size, self.metadata.num_row_groups
        try:
            problems = column_problems(self.footer, size, n_groups, leaves=leaves)
        except ValueError as error:
            raise InputError(f"{redact(self.url)}: damaged Parquet file ({error})") from error
        for name in names:
            wrong = {group[leaf] for group in problems for leaf in self.leaves[name]} - {""}
            if "encrypted" in wrong:
                raise InputError(
                    f"{redact(self.url)}: column {name!r} is encrypted; decrypt it, or leave it out"
                )
            if wrong:
                raise InputError(
                    f"{redact(self.url)}: damaged Parquet file (column {name!r}: {min(wrong)})"
                )

    def readable_as_dictionaries(self, names: Sequence[str]) -> list[str]:
        """Paths of those Parquet columns of strings that pyarrow can read as dictionaries."""
        # What pyarrow reads of a map as a dictionary it cannot make plain again.
        nested = {
            name
            for name in names
            if any(map(pa.types.is_map, _inside(self.schema.field(name).type)))
        }
        paths: set[str] = set()
        plain: set[str] = set()
        for name in names:
            for leaf in self.leaves[name]:
                column = self.metadata.schema.column(leaf)
                if column.physical_type != "BYTE_ARRAY":
                    continue
                groups = map(self.metadata.row_group, range(self.metadata.num_row_groups))
                encodings = {e for group in groups for e in group.column(leaf).encodings}
                fits = name not in nested and encodings <= _AS_DICTIONARY
                (paths if fits else plain).add(column.path)
        # Paths are joined by dots, and a name may hold one: two columns can have the same path.
        return sorted(paths - plain)

    def claimed_bytes(
        self, group: int, names: Sequence[str], dictionaries: Sequence[str]
    ) -> tuple[int, int, int]:
        """Bytes of some columns in a row group as the footer says.

        Args:
            group: number of the row group.
            names: of the columns; partition columns are in no Parquet column.
            dictionaries: paths of the Parquet columns that are read as dictionaries.

        Returns:
            All of them, plain and compressed; and what one string may have where each row could
            repeat it, 0 where none can. Strings that are read as dictionaries take no room when
            they repeat. Others cannot be longer than all that is stored of their column.
        """
        metadata, plain, compressed, longest = self.metadata.row_group(group), 0, 0, 0
        for leaf in (leaf for name in names for leaf in self.leaves.get(name, ())):
            column, chunk = self.metadata.schema.column(leaf), metadata.column(leaf)
            plain += chunk.total_uncompressed_size
            compressed += chunk.total_compressed_size
            repeats = column.physical_type == "BYTE_ARRAY" and column.path not in dictionaries
            if repeats and _SHORT & set(chunk.encodings):
                longest = max(longest, chunk.total_uncompressed_size)
        return plain, compressed, longest


def _inside(kind: pa.DataType) -> Iterator[pa.DataType]:
    """A type, and all types inside of it; those that are not nested are Parquet columns."""
    while isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    yield kind
    if pa.types.is_nested(kind):
        for place in range(kind.num_fields):
            yield from _inside(kind.field(place).type)


@contextmanager
def open_parquet(url: str) -> Iterator[ParquetSource]:
    """Open a file and read its footer; what fails inside is told in the words of the file.

    Raises:
        InputError: the file is empty, cut short, damaged, encrypted or no Parquet file.
    """
    try:
        with open_file(url) as file:
            footer = _footer(file, url)
            yield ParquetSource(file, url, footer, _metadata(footer))
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{redact(url)}: not a whole Parquet file ({_first_line(error)}); write it again, or "
            "leave it out"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{redact(url)}: the name of a column is not UTF-8; write the file again with another"
        ) from error
    except pa.ArrowNotImplementedError as error:
        raise InputError(
            f"{redact(url)}: holds what cannot be read ({_first_line(error)}); write it again in "
            "another form"
        ) from error
    except (pa.ArrowIndexError, pa.ArrowKeyError, pa.ArrowTypeError) as error:
        raise InputError(f"{redact(url)}: damaged Parquet file ({_first_line(error)})") from error
    except OSError as error:
        # pyarrow reports pages that cannot be decoded as OSError without a number, as it does what
        # its S3 client met; the latter is for `retry`.
        if error.errno is not None or type(error) is not OSError or answer(error) != (None, ""):
            raise
        raise InputError(f"{redact(url)}: damaged Parquet file ({_first_line(error)})") from error


def _footer(file: Any, url: str) -> bytes:  # noqa: ANN401
    """The footer, without its length.

    Raises:
        InputError: there is none, or it is encrypted.
    """
    size = file.size()
    file.seek(size - min(size, _TAIL_BYTES))
    tail: bytes = file.read()
    magic = tail[-4:]
    if magic == _ENCRYPTED_MAGIC:
        raise InputError(f"{redact(url)}: its footer is encrypted; decrypt it, or leave it out")
    length = struct.unpack("<I", tail[-8:-4])[0] if len(tail) >= len(_MAGIC) + 8 else size
    if magic != _MAGIC or length + len(_MAGIC) + 8 > size:
        raise pa.ArrowInvalid(
            f"it has {size} bytes" if size < len(_MAGIC) + 8 else "no footer at its end"
        )
    if length + 8 > len(tail):
        file.seek(size - length - 8)
        tail = file.read()
    return bytes(tail[-8 - length : -8])


def _metadata(footer: bytes) -> pq.FileMetaData:
    """Parse a footer.

    It may hold a second schema, in Arrow's terms, which says what Parquet has no words for. Where
    pyarrow cannot read that one (128-bit integers of Polars), Parquet's own is what counts.
    """
    try:
        return _parsed(footer)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        without = footer.replace(b"ARROW:schema", _LOST)
        try:
            return _parsed(without)
        except (pa.ArrowException, OSError):
            raise error from None


def _parsed(footer: bytes) -> pq.FileMetaData:
    length = struct.pack("<I", len(footer))
    return pq.read_metadata(pa.BufferReader(_MAGIC + footer + length + _MAGIC))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
