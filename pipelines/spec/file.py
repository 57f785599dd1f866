"""Spec files: YAML to validated values, and errors that say which key is wrong and why."""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from stx.pipelines.spec.encode import EncodeSpec
from stx.pipelines.spec.yaml_text import MAX_BYTES, MAX_DEPTH, load_yaml
from stx_core.errors import SpecError
from stx_core.store.files.filesystem import list_names, read_bytes, write_new
from stx_core.store.files.urls import WHERE_SECRETS_GO, join, redact

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Spec = TypeVar("Spec", bound=BaseModel)

_SPEC_FILE = "spec.yaml"

SECRET_NAME = re.compile(r"key|secret|token|passw|credential|signature", re.IGNORECASE)


def load_spec(
    path: str,
    overrides: Sequence[str] = (),
    kind: type[Spec] = EncodeSpec,  # type: ignore[assignment]
) -> Spec:
    """Read a YAML file of one kind of job and apply ``a.b=value`` overrides.

    Raises:
        SpecError: unreadable file, invalid YAML, or invalid values: all of them, one line each.
    """
    return parse_spec(read_values(path), overrides, source=path, kind=kind)


def read_values(path: str) -> dict[str, Any]:
    """Read the plain values of a YAML file.

    Raises:
        SpecError: it cannot be read, or holds something else.
    """
    try:
        with Path(path).expanduser().open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    # ValueError: a path with a NUL. RuntimeError: ~ of somebody unknown.
    except (OSError, ValueError, RuntimeError) as error:
        problem = getattr(error, "strerror", None) or error
        raise SpecError(f"{path}: {problem}; name an existing spec file") from None
    return _mapping(load_yaml(data, path), path)


def _mapping(values: Any, source: str) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(values, dict):
        raise SpecError(
            f"{source}: expected a mapping, such as inputs, models and output at the top"
        )
    if numbers := [name for name in values if not isinstance(name, str)]:
        raise SpecError(f"{source}: {numbers[0]!r}: keys are words; put quotes around it")
    return values


def write_spec(root: str, run: str, spec: BaseModel) -> None:
    """Keep the spec of a run beside its records: it tells later how the texts were read."""
    folder = join(root, "_stx", "runs", run)
    if _SPEC_FILE not in list_names(folder):
        text = yaml.safe_dump(public_values(spec), sort_keys=False, allow_unicode=True)
        write_new(join(folder, _SPEC_FILE), text.encode())


def public_values(spec: BaseModel, *, exclude_none: bool = False) -> dict[str, Any]:
    """The values of a spec that records and reports may keep.

    Whom a job tells is not among them: URLs of chat services and arguments of programs are secrets,
    and no result depends on them.
    """
    return spec.model_dump(mode="json", exclude={"alerts"}, exclude_none=exclude_none)


def read_spec(root: str, run: str) -> EncodeSpec:
    """Read the spec of a run that encoded.

    Raises:
        FileNotFoundError: the run left none.
        SpecError: it is not valid any more.
    """
    url = join(root, "_stx", "runs", run, _SPEC_FILE)
    values = _mapping(load_yaml(read_bytes(url), redact(url)), redact(url))
    return parse_spec(values, source=redact(url), kind=EncodeSpec)


def parse_spec(
    values: dict[str, Any],
    overrides: Sequence[str] = (),
    source: str = "spec",
    kind: type[Spec] = EncodeSpec,  # type: ignore[assignment]
) -> Spec:
    """Validate plain values; `source` names them in errors."""
    for override in overrides:
        _apply(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False, include_input=False):
            where = ".".join(str(part) for part in item["loc"] if part != "[key]") or "top level"
            lines.append(f"{source}: {where}: {_message(item, kind)}")
        raise SpecError("\n".join(lines)) from None


def _apply(values: Any, override: str) -> None:  # noqa: ANN401
    """Set the value that an override names."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise SpecError(f"--set {override}: write it as key.key=value")
    *parents, last = key.split(".")
    if len(parents) > MAX_DEPTH:
        raise SpecError(f"--set {key[:60]}…: more than {MAX_DEPTH} levels")
    for parent in parents:
        if not isinstance(values, list):
            values = values.setdefault(parent, {})
        elif parent.isdecimal() and len(parent) <= 9 and int(parent) < len(values):
            values = values[int(parent)]
        else:
            raise SpecError(f"--set {key}: {parent} is no place in a list of {len(values)}, from 0")
        if not isinstance(values, (dict, list)):
            raise SpecError(f"--set {key}: {parent} holds a value, not keys")
    if isinstance(values, list):
        raise SpecError(f"--set {key}: {last} is a place in a list, name a key of it")
    values[last] = load_yaml(text, f"--set {key}") if text else None


def _message(item: "ErrorDetails", kind: type[BaseModel]) -> str:
    location = item["loc"]
    if item["type"] == "missing":
        return "missing; every spec needs it"
    if item["type"] != "extra_forbidden":
        return item["msg"].removeprefix("Value error, ")
    if location[0] == "store" and SECRET_NAME.search(str(location[-1])):
        return f"no credentials here; {WHERE_SECRETS_GO}"
    # The part at the location; names that a user chose, and positions, are no fields.
    for step in location[:-1]:
        if field := kind.model_fields.get(str(step)):
            kind = next(_parts(field.annotation), kind)
    names = list(kind.model_fields)
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(names)}"
    return f"unknown key; {hint}"


def _parts(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401
    """Parts that an annotation like ``dict[str, Model] | None`` speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _parts(inner)
