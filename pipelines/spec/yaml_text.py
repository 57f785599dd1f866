"""YAML of people and of strangers: plain values, or one line that says where the text goes wrong.

On top of PyYAML's safe loader: bounded size, depth and numbers, so that no text takes long; no
aliases, with which small texts grow; and no key twice, of which the loader would take the last.
"""

import codecs
from collections.abc import Hashable
from typing import Any

import yaml

from stx_core.errors import SpecError

# Larger than any spec that a person writes.
MAX_BYTES = 1_000_000
# Of the levels of a spec there are six; the parser needs time and stack for each.
MAX_DEPTH = 50
# Digits of a 128-bit decimal. Python refuses numbers of thousands, and is slow before.
_MAX_NUMBER = 40

_MERGE = "tag:yaml.org,2002:merge"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")

# libyaml, where PyYAML comes with it: 30 times as fast.
_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Safe):  # type: ignore[misc]
    """The safe loader, stricter. What it refuses is a `yaml.YAMLError` with a place."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ANN401
        if isinstance(node, yaml.ScalarNode):
            if node.tag in _NUMBERS and len(node.value) > _MAX_NUMBER:
                raise _problem(f"a number of {len(node.value)} characters", node)
            if any("\ud800" <= letter <= "\udfff" for letter in node.value):
                raise _problem("half of a surrogate pair, which is no character", node)
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        # The loader's own constructors raise what Python's do: a date without such a day, a tag
        # whose value is of another kind.
        except (ValueError, OverflowError, TypeError, LookupError, AttributeError):
            kind = node.tag.rpartition(":")[2]
            raise _problem(f"no {kind}: put quotes around it if it is text", node) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # refused below
            if key in lines:
                where = f"the first is in line {lines[key]}"
                raise _problem(f"key {str(key)[:60]!r} is there twice, {where}", key_node)
            lines[key] = key_node.start_mark.line + 1
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def load_yaml(data: bytes | str, source: str) -> Any:  # noqa: ANN401
    """The plain values of a text; None of an empty one.

    Args:
        data: bytes are UTF-8, or UTF-16 with its mark at the beginning.
        source: names the text in errors.

    Raises:
        SpecError: it is no YAML of this kind. The text itself is not quoted: it may hold secrets.
    """
    if len(data) > MAX_BYTES:
        raise SpecError(f"{source}: more than {MAX_BYTES:,} bytes; no spec is that long")
    if isinstance(data, str):
        text = data
    else:
        is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        try:
            text = data.decode("utf-16" if is_wide else "utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise SpecError(
                f"{source}: not valid YAML: line {line}: byte {error.start} is not UTF-8; save the "
                "file as UTF-8"
            ) from None
    try:
        _check_shape(text)
        return yaml.load(text, _Loader)  # noqa: S506  (it is a safe loader)
    except yaml.YAMLError as error:
        raise SpecError(f"{source}: not valid YAML: {_explain(error, text)}") from None


def _check_shape(text: str) -> None:
    """Refuse aliases and depth before anything is built of them."""
    depth = 0
    for event in yaml.parse(text, _Safe):
        if isinstance(event, yaml.AliasEvent):
            raise _problem("aliases (*name) are not allowed; write the value out", event)
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
        if depth > MAX_DEPTH:
            raise _problem(f"more than {MAX_DEPTH} levels of lists and keys", event)


def _problem(problem: str, place: Any) -> yaml.MarkedYAMLError:  # noqa: ANN401  (node or event)
    return yaml.constructor.ConstructorError(None, None, problem, place.start_mark)


def _explain(error: yaml.YAMLError, text: str) -> str:
    """The problem and its place, in words."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    if mark is None:
        if isinstance(error, yaml.reader.ReaderError):
            n_before = text.count("\n", 0, int(error.position))
            return f"line {n_before + 1}: a control character, which YAML does not allow"
        return str(problem or type(error).__name__)
    lines = text.split("\n")
    line = lines[mark.line] if mark.line < len(lines) else ""
    if line[: len(line) - len(line.lstrip())].count("\t"):
        problem = "a tab in the indentation; use spaces"
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem or type(error).__name__}"
