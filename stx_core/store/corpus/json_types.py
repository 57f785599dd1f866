"""Types of JSON columns: what all rows of all files hold, and the type that changes no value.

The kind that most values have decides: string, number, list, object or true/false. Within a kind
types are widened where nothing is lost: whole numbers become float64 beside fractions if all of
them are short enough; lists and objects take what any of their elements and keys need. A value that
does not fit the type makes its row a bad one: no value is bent.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa

from stx_core.errors import InputError

# Beyond these, keys are taken for data and nesting for an attack.
_MAX_KEYS = 10_000
_MAX_DEPTH = 32

LAST_EXACT = 2**53
_INT64_END = 2**63
_UINT64_END = 2**64

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"
"""A value as `json` parses it."""

JsonObject = dict[str, Json]

# What a column is for: ids are strings or whole numbers, never fractions.
Role = Literal["id", "number", "any"]


class Misfit(Exception):
    """A value does not fit a type; says why, without the value."""


@dataclass
class Profile:
    """Counts of the kinds of values in a column; nulls do not count.

    Attributes:
        strings: strings, and so on for the others.
        negative: whole numbers below 0.
        beyond_int64: whole numbers that only uint64 holds.
        inexact: whole numbers beyond ±2**53: not each of them is a float64.
        items: of the elements of all lists.
        fields: of the values of all objects by key, in the order of their first appearance.
    """

    strings: int = 0
    ints: int = 0
    floats: int = 0
    lists: int = 0
    objects: int = 0
    bools: int = 0
    negative: int = 0
    beyond_int64: int = 0
    inexact: int = 0
    items: "Profile | None" = None
    fields: "dict[str, Profile]" = field(default_factory=dict)

    def add(self, values: Sequence[Any], depth: int = 0) -> None:
        """Count values as `json` parses them."""
        kinds = Counter(map(type, values))
        self.strings += kinds[str]
        self.floats += kinds[float]
        self.bools += kinds[bool]
        if kinds[int]:
            self.ints += kinds[int]
            whole = [value for value in values if type(value) is int]
            low, high = min(whole), max(whole)
            if low < 0:
                self.negative += sum(value < 0 for value in whole)
            if high >= _INT64_END:
                self.beyond_int64 += sum(_INT64_END <= value < _UINT64_END for value in whole)
            if max(high, -low) > LAST_EXACT:
                self.inexact += sum(abs(value) > LAST_EXACT for value in whole)
        if depth == _MAX_DEPTH:
            return
        if kinds[list]:
            self.lists += kinds[list]
            self.items = self.items or Profile()
            lists = (value for value in values if type(value) is list)
            self.items.add(list(chain.from_iterable(lists)), depth + 1)
        if kinds[dict]:
            self.objects += kinds[dict]
            objects = [value for value in values if type(value) is dict]
            for name in filter(is_text, dict.fromkeys(chain.from_iterable(objects))):
                if len(self.fields) <= _MAX_KEYS:
                    part = self.fields.setdefault(name, Profile())
                    part.add([value.get(name) for value in objects], depth + 1)

    def merge(self, profile: "Profile") -> None:
        """Add what another one counted."""
        for name in ("strings", "ints", "floats", "lists", "objects", "bools", "negative",
                     "beyond_int64", "inexact"):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(profile, name))
        if profile.items is not None:
            self.items = self.items or Profile()
            self.items.merge(profile.items)
        for name, part in profile.fields.items():
            self.fields.setdefault(name, Profile()).merge(part)


def type_of(profile: Profile, name: str, role: Role = "any") -> pa.DataType:
    """The type that holds the most values of a column, and changes none.

    Args:
        profile: of the column.
        name: of the column, for messages.
        role: ``id`` keeps whole numbers whole, however many fractions stand beside them, if most
            values are; ``number`` looks at numbers alone.

    Raises:
        InputError: objects with too many different keys, or with none.
    """
    numbers = profile.ints + profile.floats
    counts = {
        "string": profile.strings,
        "number": numbers,
        "list": profile.lists,
        "object": profile.objects,
        "bool": profile.bools,
    }
    if role == "number":
        counts = {"number": numbers}
    kind = max(counts, key=counts.__getitem__)
    if not counts[kind]:
        return pa.null()
    if kind == "number":
        whole = profile.inexact > profile.floats or not profile.floats
        if whole or (role == "id" and profile.ints >= profile.floats):
            return pa.uint64() if profile.beyond_int64 > profile.negative else pa.int64()
        return pa.float64()
    if kind == "list":
        return pa.list_(type_of(profile.items or Profile(), f"{name}[]"))
    if kind == "object":
        if len(profile.fields) > _MAX_KEYS:
            raise InputError(
                f"column {name!r} holds objects with more than {_MAX_KEYS:,} different keys; leave "
                "it out, or write it as text"
            )
        if not profile.fields:
            raise InputError(
                f"column {name!r} holds nothing but empty objects, which no Parquet file can; "
                "leave it out"
            )
        parts = profile.fields.items()
        return pa.struct([pa.field(key, type_of(part, f"{name}.{key}")) for key, part in parts])
    return pa.string() if kind == "string" else pa.bool_()


def to_array(values: Sequence[Json], kind: pa.DataType) -> pa.Array:
    """Values as `json` parses them, as an array of a type.

    Raises:
        Misfit: a value would change, or cannot be of this type.
    """
    check(values, kind)
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        raise Misfit("holds half a character (a lone surrogate), which is no text") from None
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        raise Misfit(f"should be {kind}") from None


def check(values: Sequence[Any], kind: pa.DataType) -> None:
    """Refuse values that `pa.array` would bend to fit a type.

    Raises:
        Misfit: there is one.
    """
    types = set(map(type, values)) - {type(None)}
    accepted = next((taken for is_kind, taken in _ACCEPTED.items() if is_kind(kind)), set())
    if misfits := types - accepted:
        names = ", ".join(sorted(_JSON_NAMES.get(type_, type_.__name__) for type_ in misfits))
        raise Misfit(f"should be {kind}, not {names}")
    if not types:
        return
    if int in types:
        whole = [value for value in values if type(value) is int]
        if pa.types.is_floating(kind) and max(map(abs, whole)) > LAST_EXACT:
            raise Misfit(f"is a whole number too long for a {kind}; write it as a string")
        if min(whole) < -_INT64_END or max(whole) >= _UINT64_END:
            raise Misfit("is a whole number of more than 64 bits; write it as a string")
    elif pa.types.is_nested(kind) and list in types:
        check(list(chain.from_iterable(value for value in values if value)), kind.value_type)
    elif pa.types.is_struct(kind):
        objects = [value for value in values if value is not None]
        keys = set(chain.from_iterable(objects))
        if more := keys.difference(part.name for part in kind):
            raise Misfit(f"has {len(more)} keys that no row had when it was planned, or no text")
        for part in kind:
            check([value.get(part.name) for value in objects], part.type)
    elif pa.types.is_floating(kind) and kind != pa.float64():
        numbers = np.array([value for value in values if value is not None])
        if not np.array_equal(numbers.astype(kind.to_pandas_dtype()), numbers, equal_nan=True):
            raise Misfit(f"is no {kind} exactly")


_JSON_NAMES = {str: "a string", int: "a whole number", float: "a fraction", bool: "true or false",
               list: "a list", dict: "an object"}  # fmt: skip

# Python's types of the values that an Arrow type can take.
_ACCEPTED: dict[Callable[[pa.DataType], bool], set[type]] = {
    pa.types.is_integer: {int},
    pa.types.is_floating: {int, float},
    pa.types.is_struct: {dict},
    pa.types.is_boolean: {bool},
    pa.types.is_list: {list},
    pa.types.is_large_list: {list},
    pa.types.is_fixed_size_list: {list},
    pa.types.is_string: {str},
    pa.types.is_large_string: {str},
    pa.types.is_string_view: {str},
    pa.types.is_binary: {str},
    pa.types.is_large_binary: {str},
}


def is_text(name: str) -> bool:
    """Tell whether a string is text: JSON can spell halves of characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
