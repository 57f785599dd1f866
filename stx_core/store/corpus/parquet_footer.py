"""Columns of a Parquet footer that pyarrow must not be asked about.

Its metadata of an encrypted column, or of one whose statistics contradict the schema, ends the
process where it is looked at. So the footer is looked through first: it is a struct of Thrift's
compact protocol, https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

# Type of the numbers of fields that do not fit into a byte.
_I16 = 4

# Numbers of the fields that are looked at, in the structs of the footer.
_ROW_GROUPS, _COLUMNS, _COLUMN_METADATA = 4, 1, 3
_CRYPTO_METADATA, _ENCRYPTED_METADATA = 8, 9
_KIND, _STATISTICS, _BOUNDS, _SIZE_STATISTICS = 1, 12, (1, 2, 5, 6), 16
_UNENCODED_BYTES, _REPETITIONS, _DEFINITIONS = 1, 2, 3

# Physical types in the order of their numbers, with the bytes of their values.
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8,
           "BYTE_ARRAY": None, "FIXED_LEN_BYTE_ARRAY": None}  # fmt: skip
_KINDS = list(_WIDTHS)


class Leaf(NamedTuple):
    """A column in a schema: physical type, bytes of a fixed one, levels of nesting."""

    kind: str
    length: int
    max_repetition: int
    max_definition: int


# Units of a file follow each other, and each opens it.
@lru_cache(maxsize=16)
def column_problems(
    footer: bytes, size: int, n_groups: int, leaves: tuple[Leaf, ...]
) -> tuple[tuple[str, ...], ...]:
    """Of each row group and column what is wrong with its metadata; empty where nothing is.

    Args:
        footer: one that pyarrow could parse.
        size: how many bytes of it pyarrow took; a signature may follow.
        n_groups: how many row groups it saw.
        leaves: the columns of its schema.

    Raises:
        ValueError: its fields are of other types than Parquet says.
    """
    reader = _Compact(footer)
    try:
        groups = reader.struct().get(_ROW_GROUPS, [])
        problems = []
        for chunks in (group.get(_COLUMNS, []) for group in groups):
            if len(chunks) == len(leaves):
                problems.append(tuple(map(_problem, chunks, leaves)))
            else:
                lost = f"a row group has {len(chunks)} of {len(leaves)} columns"
                problems.append((lost,) * len(leaves))
    except (AttributeError, IndexError, RecursionError, TypeError, ValueError):
        problems = []
    # Where pyarrow has read it in another way, nothing is known of what that saw.
    if reader.place != size or len(problems) != n_groups:
        raise ValueError("its footer is not of Parquet's form")
    return tuple(problems)


def _problem(chunk: dict[int, Any], leaf: Leaf) -> str:
    if _CRYPTO_METADATA in chunk or _ENCRYPTED_METADATA in chunk:
        return "encrypted"
    if _COLUMN_METADATA not in chunk:
        return "it has no metadata"
    metadata = chunk[_COLUMN_METADATA]
    if metadata.get(_KIND) != _KINDS.index(leaf.kind):
        return "it is not of the type that the schema says"
    width = leaf.length if leaf.kind == "FIXED_LEN_BYTE_ARRAY" else _WIDTHS[leaf.kind]
    statistics = metadata.get(_STATISTICS, {})
    if width and any(len(statistics.get(bound) or bytes(width)) != width for bound in _BOUNDS):
        return "its bounds are not of its type"
    sizes = metadata.get(_SIZE_STATISTICS, {})
    levels = ((_REPETITIONS, leaf.max_repetition), (_DEFINITIONS, leaf.max_definition))
    if any(len(sizes.get(field, ())) not in (0, level + 1) for field, level in levels):
        return "its counts of levels are not of its schema"
    if _UNENCODED_BYTES in sizes and leaf.kind != "BYTE_ARRAY":
        return "its sizes are not of its type"
    return ""


@dataclass
class _Compact:
    """A struct of the compact protocol as a dict by field number; of lists, their items."""

    data: bytes
    place: int = 0

    def struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while header := self._byte():
            number = number + (header >> 4) if header >> 4 else self._value(_I16)
            kind = header & 15
            # In structs a boolean is in the header.
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:  # noqa: ANN401, C901  (one line for each kind)
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (4, 5, 6):
            value = self._varint()
            return (value >> 1) ^ -(value & 1)
        if kind == 7:
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._varint())
        if kind in (9, 10):
            header = self._byte()
            size = self._varint() if header >> 4 == 15 else header >> 4
            return [self._value(header & 15) for _ in range(size)]
        if kind == 11:
            size = self._varint()
            kinds = self._byte() if size else 0
            # No field that is looked at is in a map.
            for _ in range(size):
                self._value(kinds >> 4)
                self._value(kinds & 15)
            return None
        if kind == 12:
            return self.struct()
        if kind == 13:
            return self._bytes(16)
        raise ValueError(f"no type {kind} of Thrift")

    def _byte(self) -> int:
        self.place += 1
        return self.data[self.place - 1]

    def _bytes(self, size: int) -> bytes:
        self.place += size
        return self.data[self.place - size : self.place]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
