import pyarrow as pa
import pytest

from stx_core.errors import InputError
from stx_core.store.corpus.columns import check_types, corpus_schema
from stx_core.store.corpus.shards import Shard


def shard(name, format="parquet", **columns):
    return Shard(name, "e", format, 1, (0, 1), pa.schema(list(columns.items())))


def test_types_of_all_shards_come_to_one():
    shards = [
        shard("a", id=pa.int32(), text=pa.large_string(), x=pa.null(), y=pa.float32()),
        shard("b", id=pa.int64(), text=pa.dictionary(pa.int8(), pa.string()), x=pa.bool_(),
              y=pa.float64()),
    ]  # fmt: skip

    schema = corpus_schema(shards, ["text", "id", "x", "y", "id"])

    assert schema == pa.schema(
        [("text", pa.string()), ("id", pa.int64()), ("x", pa.bool_()), ("y", pa.float64())]
    )


def test_shards_that_disagree_are_named():
    shards = [shard("a", id=pa.int64()), shard("b", id=pa.string())]

    with pytest.raises(InputError, match="'id' is int64 in a, but string in b"):
        corpus_schema(shards, ["id"])


def test_a_missing_column_names_file_and_columns():
    with pytest.raises(InputError, match="a: no column 'txt'; it has text"):
        corpus_schema([shard("a", text=pa.string())], ["txt"])


def test_lines_may_lack_a_column_that_others_have():
    shards = [shard("a", "jsonl", text=pa.string()), shard("b", "jsonl", x=pa.int64())]

    assert corpus_schema(shards, ["text"]) == pa.schema([("text", pa.string())])
    with pytest.raises(InputError, match="no row has a column 'z'"):
        corpus_schema(shards, ["z"])


def test_text_must_be_string():
    with pytest.raises(InputError, match="column 'text' is int64, not string"):
        check_types(pa.schema([("text", pa.int64())]), ["text"])
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())):
        check_types(pa.schema([("text", kind)]), ["text"])


def test_an_id_is_a_string_or_an_integer():
    for kind in (pa.string(), pa.int16()):
        check_types(pa.schema([("id", kind)]), [], "id")
    with pytest.raises(InputError, match="column 'id' is double, not string or integer"):
        check_types(pa.schema([("id", pa.float64())]), [], "id")
