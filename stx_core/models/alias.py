"""Attributes that lie in a part of their object, or have another name there."""

from functools import reduce
from typing import Generic, TypeVar, cast

Value = TypeVar("Value")


class Alias(Generic[Value]):
    """An attribute under another name, always as it is now: ``in_features`` of the layer inside.

    Args:
        path: where it is, dotted, such as ``encoder.input_size``.
        settable: whether it can be set under this name, too.
        optional: None where there is no such attribute, instead of an error.
    """

    def __init__(self, path: str, *, settable: bool = False, optional: bool = False) -> None:
        *self._parts, self._name = path.split(".")
        self._settable = settable
        self._default = (None,) if optional else ()

    def __get__(self, instance: object, owner: type | None = None) -> Value:
        if instance is None:
            return self  # type: ignore[return-value]  # of the class, as a property does
        part = reduce(getattr, self._parts, instance)
        return cast(Value, getattr(part, self._name, *self._default))

    def __set__(self, instance: object, value: Value) -> None:
        if not self._settable:
            raise AttributeError(f"{'.'.join([*self._parts, self._name])} cannot be set from here")
        setattr(reduce(getattr, self._parts, instance), self._name, value)
