"""Specs for machines and for readers: JSON Schema for editors, and a page with every key."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from stx.pipelines.flow import FlowSpec
from stx.pipelines.jobs import JOBS
from stx_core.errors import SpecError

_HEAD = """# Every key of every spec

This page is made from the models that read specs: `stx spec reference > docs/spec.md`. For
completion and checks in an editor, write the schema beside your spec and name it in the first line:

    stx spec schema encode > encode.schema.json

    # yaml-language-server: $schema=encode.schema.json

Unknown keys are refused. `--set a.b=value` overrides any key; numbers name places in lists.
"""

_Part = Mapping[str, Any]


def spec_model(kind: str) -> type[BaseModel]:
    """The model that reads a kind of spec.

    Raises:
        SpecError: there is no such kind.
    """
    if kind == "flow":
        return FlowSpec
    if kind not in JOBS and kind not in JOBS.plugins:
        raise SpecError(f"spec {kind!r}: must be one of {', '.join([*JOBS, 'flow'])}")
    return JOBS[kind].spec_class()


def json_schema(kind: str) -> dict[str, Any]:
    """JSON Schema (2020-12) of a kind of spec, with descriptions."""
    schema = spec_model(kind).model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def reference() -> str:
    """A page in Markdown: each kind of spec, then each part that they are made of.

    A plug-in that cannot be used is left out: `stx doctor` tells why.
    """
    schemas = {kind: json_schema(kind) for kind in [*JOBS.usable(), "flow"]}
    parts: dict[str, _Part] = {}
    for schema in schemas.values():
        parts |= schema.get("$defs", {})
    lines = [_HEAD]
    for kind, schema in schemas.items():
        command = "stx run" if kind == "flow" else f"stx {kind}"
        origin = f" Of {plugin.distribution}." if (plugin := JOBS.plugins.get(kind)) else ""
        about = f"`{command} SPEC`. {_sentence(schema)}{origin}\n"
        lines += [f"## {kind}\n", about, *_table(schema)]
    lines.append("# Parts\n")
    for name, part in sorted(parts.items()):
        if "properties" in part:
            lines += [f"## {name}\n", f"{_sentence(part)}\n", *_table(part)]
    return "\n".join(lines)


def _table(part: _Part) -> Iterator[str]:
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    required = part.get("required", ())
    for name, field in part["properties"].items():
        value = field.get("default")
        text = "none" if value is None else json.dumps(value, ensure_ascii=False).strip('"')
        if isinstance(value, dict) and value:
            text = "its own defaults"
        default = "**needed**" if name in required else f"`{text}`"
        yield f"| `{name}` | {_type(field)} | {default} | {_sentence(field)} |"
    yield ""


def _type(field: _Part) -> str:
    """A field's type in words, parts as links."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    for several in ("anyOf", "oneOf"):
        if several in field:
            names = [_type(kind) for kind in field[several] if kind.get("type") != "null"]
            return " or ".join(dict.fromkeys(names))
    return _plain_type(field)


def _plain_type(field: _Part) -> str:
    kind = field.get("type", "any")
    if kind == "array":
        items = field.get("items") or {}
        return f"list of {_type(items)}" if items else "list"
    if kind == "object":
        values = next(iter(field.get("patternProperties", {}).values()), None)
        values = values or field.get("additionalProperties")
        return f"name to {_type(values)}" if isinstance(values, dict) else "mapping"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤"}
    limits = [f"{sign} {field[name]}" for name, sign in bounds.items() if name in field]
    return " ".join([kind, *limits])


def _sentence(part: _Part) -> str:
    """Description in one line of a table."""
    return " ".join(str(part.get("description", "")).split()).replace("|", "\\|").replace("``", "`")
