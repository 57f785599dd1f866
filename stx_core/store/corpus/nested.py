"""Lists, structs and maps: what they are made of."""

from collections.abc import Callable

import pyarrow as pa


def children(array: pa.Array) -> list[pa.Array]:
    """The arrays inside of a nested array: of a list one, of a struct one per field."""
    if pa.types.is_map(array.type):
        # Those of a slice are the whole array's.
        start, stop = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return [part.slice(start, stop - start) for part in (array.keys, array.items)]
    parts = array.flatten()
    return parts if isinstance(parts, list) else [parts]


def with_leaves(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """A type in which each type that is not nested became another."""

    def inside(field: pa.Field) -> pa.Field:
        new = with_leaves(field.type, change)
        return field if new == field.type else pa.field(field.name, new, field.nullable)

    if pa.types.is_struct(kind):
        return pa.struct([inside(field) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(inside(kind.key_field), inside(kind.item_field), kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inside(kind.value_field), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(inside(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(inside(kind.value_field))
    return change(kind)
