"""Types of the columns that a job reads: one schema for all shards, checked before work starts."""

from collections.abc import Collection, Iterable, Sequence

import pyarrow as pa

from stx_core.errors import InputError
from stx_core.store.corpus.extensions import plain_extension
from stx_core.store.corpus.json_types import Profile, type_of
from stx_core.store.corpus.shards import Shard
from stx_core.store.files.urls import redact


def corpus_schema(
    shards: Sequence[Shard], columns: Sequence[str], ids: Collection[str] = ()
) -> pa.Schema:
    """Find one type per column that holds the values of all shards.

    Strings of any kind become ``string``, integers ``int64``; dictionaries are decoded. JSON lines
    have the type that keeps most of their values, see `json_types`.

    Args:
        shards: not empty.
        columns: their names.
        ids: those of them that are ids.

    Raises:
        InputError: a shard lacks a column, or two shards disagree about its type.
    """
    return pa.schema([_common_field(shards, name, name in ids) for name in dict.fromkeys(columns)])


def _common_field(shards: Sequence[Shard], name: str, is_id: bool) -> pa.Field:  # noqa: FBT001
    common, first = None, ""
    if as_json := [shard for shard in shards if name in (shard.profiles or {})]:
        profile = Profile()
        for shard in as_json:
            profile.merge((shard.profiles or {})[name])
        common, first = type_of(profile, name, "id" if is_id else "any"), as_json[0].url
    for shard in shards:
        n_fields = shard.schema.names.count(name)
        if name in (shard.profiles or {}) or (n_fields == 0 and shard.format == "jsonl"):
            continue
        if n_fields == 0:
            has = ", ".join(shard.schema.names)
            raise InputError(f"{redact(shard.url)}: no column {name!r}; it has {has}")
        if n_fields > 1:
            raise InputError(
                f"{redact(shard.url)}: two columns are named {name!r}; rename one of them"
            )
        kind = plain_type(shard.schema.field(name).type)
        if isinstance(kind, pa.OpaqueType):
            raise InputError(
                f"{redact(shard.url)}: column {name!r} is of {kind.type_name}; write it as another "
                "type, or leave it out"
            )
        if common is None or pa.types.is_null(common):
            common, first = kind, shard.url
        elif kind != common and not pa.types.is_null(kind):
            try:
                both = [pa.schema([pa.field(name, each_type)]) for each_type in (common, kind)]
                common = pa.unify_schemas(both, promote_options="permissive").field(name).type
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise InputError(
                    f"column {name!r} is {common} in {redact(first)}, but {kind} in "
                    f"{redact(shard.url)}; give them one type"
                ) from error
    if common is None:
        where = redact(shards[0].url) if shards else "the corpus"
        names = dict.fromkeys(column for shard in shards for column in shard.schema.names)
        has = f"it has {', '.join(names)}" if names else "no line of it is a JSON object"
        raise InputError(f"{where}: no row has a column {name!r}; {has}")
    return pa.field(name, common)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that stands for all of its kind: string, int64; dictionaries are decoded.

    Extension types are what they stand for, see `plain_extension`.
    """
    if isinstance(kind, pa.OpaqueType):
        return kind
    kind = plain_extension(kind)
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return pa.int64() if pa.types.is_integer(kind) and kind != pa.uint64() else kind


def check_types(schema: pa.Schema, texts: Iterable[str], id_column: str | None = None) -> None:
    """Refuse text columns that are no strings, and an id column that is neither string nor integer.

    Raises:
        InputError: names column and type.
    """
    for column in texts:
        kind = schema.field(column).type
        if plain_type(kind) != pa.string():
            raise InputError(f"column {column!r} is {kind}, not string; choose another text column")
    if id_column:
        kind = schema.field(id_column).type
        if plain_type(kind) != pa.string() and not pa.types.is_integer(kind):
            raise InputError(
                f"column {id_column!r} is {kind}, not string or integer; choose another id"
            )
