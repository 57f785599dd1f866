"""Arrow's extension types as what they are made of: readers of files disagree about them."""

import pyarrow as pa
import pyarrow.compute as pc

from stx_core.store.corpus.nested import with_leaves

_UUID_PARTS = ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))


def plain_extension(kind: pa.DataType) -> pa.DataType:
    """The type that stands for an extension type; other types are themselves.

    UUIDs and JSON are text, and booleans of a byte are booleans; of all others, and of those inside
    of lists, structs and maps, it is what they are stored as.
    """
    if isinstance(kind, (pa.UuidType, pa.JsonType)):
        return pa.string()
    return pa.bool_() if isinstance(kind, pa.Bool8Type) else _storage(kind)


def without_extensions(table: pa.Table) -> pa.Table:
    """A table with each column as `plain_extension` says."""
    for place, field in enumerate(table.schema):
        kind = plain_extension(field.type)
        if kind != field.type:
            column = table.column(place)
            if isinstance(field.type, pa.UuidType):
                # As people write them, by Arrow's own loops: a UUID is often the id of each row.
                storage = column.combine_chunks().storage
                digits = b"".join(storage.fill_null(bytes(16)).to_pylist()).hex().encode()
                fixed = pa.Array.from_buffers(
                    pa.binary(32), len(storage), [None, pa.py_buffer(digits)]
                )
                text = fixed.cast(pa.binary()).cast(pa.string())
                parts = [pc.utf8_slice_codeunits(text, start, stop) for start, stop in _UUID_PARTS]
                joined = pc.binary_join_element_wise(*parts, "-")
                column = pc.if_else(storage.is_valid(), joined, pa.scalar(None, pa.string()))
            else:
                column = column.cast(_storage(field.type)).cast(kind)
            table = table.set_column(place, field.name, column)
    return table


def _storage(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _storage(kind.storage_type)
    return with_leaves(kind, _storage) if pa.types.is_nested(kind) else kind
