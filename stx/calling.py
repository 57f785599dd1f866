"""From what a caller gives to a spec, and from there to what its job returns."""

import os
from collections.abc import Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeAlias, Union, get_args, get_origin

from stx.pipelines.jobs import JOBS
from stx_core.errors import SpecError

if TYPE_CHECKING:
    from stx.pipelines.spec.parts import Part

Source: TypeAlias = Union[str, "os.PathLike[str]", Mapping[str, Any], "Part"]
"""A spec: a YAML file, its values, or an object of the spec's class."""

# Keys that a string stands for, where a part of a spec has them.
_MAIN_KEYS = ("path", "model")

# Keywords that are no keys of a spec.
_OPTIONS = ("view", "dry_run", "allow_code")


def run_spec(job: str, source: Source | None, keys: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Run a job of the table; what it returns.

    Args:
        job: its name.
        source: its spec, or a part of it.
        keys: of the spec, before those of the source; ``view`` and ``dry_run`` are options of
            the job, ``allow_code`` says that ``inputs.map`` may run.

    Raises:
        StxError: of the spec, or of the job.
    """
    from stx.pipelines.spec.code import refuse_code

    spec = to_spec(
        JOBS[job].spec_class(),
        source,
        {name: value for name, value in keys.items() if name not in _OPTIONS},
    )
    if not keys.get("allow_code"):
        refuse_code(spec, "spec", "allow_code=True")
    options = {"dry_run": keys["dry_run"]} if "dry_run" in keys else {}
    return JOBS[job].run_function()(spec, keys.get("view"), **options)


def to_spec(kind: "type[Any]", source: Source | None, keys: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """An object of a spec's class.

    Raises:
        SpecError: a file cannot be read, or the values are not valid: all of them, a line each.
    """
    from pydantic import BaseModel

    from stx.pipelines.spec.file import parse_spec, read_values

    name = "spec"
    if isinstance(source, BaseModel):
        if not isinstance(source, kind):
            raise SpecError(f"a {type(source).__name__} is no {kind.__name__}")
        if not keys:
            return source
        values = source.model_dump(exclude_unset=True)
    elif source is None or isinstance(source, Mapping):
        values = dict(source or {})
    else:
        name = os.fspath(source)
        values = read_values(name)
    written = {}
    for key, value in {**values, **keys}.items():
        field = kind.model_fields.get(key)
        written[key] = _in_full(_plain(value), field and field.annotation)
    return parse_spec(written, source=name, kind=kind)


def _place(function: FunctionType) -> str:
    """``module:name`` of a function.

    Raises:
        SpecError: other processes could not import it.
    """
    place = f"{function.__module__}:{function.__qualname__}"
    if function.__module__ == "__main__" or not function.__qualname__.isidentifier():
        raise SpecError(
            f"{place}: workers import it by its name; write the function into a module that they "
            "can import, at its top"
        )
    return place


def _in_full(value: Any, annotation: Any) -> Any:  # noqa: ANN401
    """The value of a key; a string or list as the main key of the part that is wanted there."""
    from pydantic import BaseModel

    kinds = [item for item in (annotation, *get_args(annotation)) if isinstance(item, type)]
    part = next((item for item in kinds if issubclass(item, BaseModel)), None)
    if isinstance(value, dict) and get_origin(annotation) is dict:
        return {name: _in_full(item, part) for name, item in value.items()}
    if part is None or not isinstance(value, (str, list)):
        return value
    main = next((name for name in _MAIN_KEYS if name in part.model_fields), None)
    return value if main is None else {main: value}


def _plain(value: Any) -> Any:  # noqa: ANN401
    """The same with paths as strings, functions as their places, and the containers of YAML."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, FunctionType):
        return _place(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
