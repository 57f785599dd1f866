"""Settings that a file of a model folder gives: known keys, types as declared, possible sizes."""

import math
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from stx_core.errors import ModelError

# What no model has more of, by the name of the setting. Layers are built one by one, labels are
# named one by one, tables are laid out in memory: beyond these it would take hours, or all of it.
_MOST = (
    (re.compile(r"layers?$|blocks?$|groups$|stages$|hash_functions$"), 1_000),
    (re.compile(r"num_labels|experts"), 1_000_000),
    (
        re.compile(
            r"size|dim|width|hidden|features|channels|heads|positions|embd|buckets|distance|latent"
            r"|^d_|^n_|^k$|^k_aux$|dimension|truncate"
        ),
        100_000_000,
    ),
)


def check_settings(
    config: Mapping[str, Any], hints: Mapping[str, Any], where: str | Path, *, closed: bool = True
) -> None:
    """Check settings of a file against what each may be.

    Args:
        config: keys and JSON values of the file.
        hints: type hints by key, such as ``int | None``; a key without one is unknown.
        where: the file, for errors.
        closed: refuse unknown keys.

    Raises:
        ModelError: a value is of another type, or a key is unknown.
    """
    for key, value in config.items():
        if key in hints:
            if not fits(value, hints[key]):
                raise ModelError(f"{where}: {key} is {shown(value)}, not {_name(hints[key])}")
        elif closed:
            raise ModelError(
                f"{where}: a setting is unknown: {shown(key)}; known are {', '.join(sorted(hints))}"
            )


def check_sizes(config: Any, where: str | Path, key: str = "") -> None:  # noqa: ANN401  (JSON)
    """Check that no number would have a model built for hours, or of more memory than there is.

    Raises:
        ModelError: a number of parts, or a size, is beyond what any model has.
    """
    if isinstance(config, dict):
        for name, value in config.items():
            check_sizes(value, where, str(name))
    elif isinstance(config, list):
        for value in config:
            check_sizes(value, where, key)
    elif isinstance(config, (int, float)):
        for pattern, most in _MOST:
            if pattern.search(key) and not abs(config) <= most:
                raise ModelError(
                    f"{where}: {key} is {shown(config)}; no model has more than {most:,}"
                )


def fits(value: Any, hint: Any) -> bool:  # noqa: ANN401
    """True for a JSON value of a type, and for types that JSON does not have."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, choice) for choice in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if hint in (bool, str, type(None)) or (hint is int):
        return type(value) is hint
    if hint is float:
        return type(value) is int or (type(value) is float and math.isfinite(value))
    kind = origin or hint
    if not isinstance(kind, type):
        return True
    if issubclass(kind, Mapping):
        return isinstance(value, dict) and all(
            fits(item, arguments[1]) for item in value.values() if arguments
        )
    if issubclass(kind, (Sequence, list, tuple)):
        return isinstance(value, list) and all(
            fits(item, arguments[0]) for item in value if arguments
        )
    return not isinstance(value, (dict, list))


def shown(value: Any) -> str:  # noqa: ANN401
    """A value in a few characters; numbers of thousands of digits cannot be written out."""
    if isinstance(value, int) and abs(value) >= 10**20:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _name(hint: Any) -> str:  # noqa: ANN401
    """A hint in JSON's words."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_name, get_args(hint))))
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    kind = get_origin(hint) or hint
    if kind is type(None):
        return "null"
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "an object"
    return words.get(kind, "a list")
