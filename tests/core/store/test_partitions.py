"""What stands in a path wins over the file, for pruning, filters and values alike."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines.planning.corpus import list_corpus
from stx.pipelines.spec.parts import Inputs
from stx_core.errors import InputError
from stx_core.store.corpus.columns import corpus_schema
from stx_core.store.corpus.readers import list_shards, read_rows
from stx_core.store.corpus.units import plan_units


def write(folder, kind, rows):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [list(rows[0]), *(row.values() for row in rows)]
        path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))


def read(folder, columns, filters=()):
    shards = list_shards([str(folder)], filters=filters, columns=columns)
    schema = corpus_schema(shards, columns)
    parts = [read_rows(unit, schema, filters) for unit in plan_units(shards, 10)]
    return schema, [row for part in parts for row in part.table.to_pylist()]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize(
    ("condition", "ids"),
    [
        ((), "ab"),
        (("==", 2020), "a"),
        (("!=", 2020), "b"),
        (("in", [2020]), "a"),
        ((">", 9999), ""),
    ],
)
@pytest.mark.parametrize("name", ["year", "_year"])
def test_the_partition_value_wins_over_the_column_of_the_file(tmp_path, kind, condition, ids, name):
    # The files say the opposite, and a third year.
    write(tmp_path / f"{name}=2020", kind, [{"id": "a", name: 2021}, {"id": "a", name: 9}])
    write(tmp_path / f"{name}=2021", kind, [{"id": "b", name: 2020}, {"id": "b", name: 2021}])
    filters = [(name, *condition)] if condition else []

    if not ids:
        assert list_shards([str(tmp_path)], filters=filters) == []
        return
    schema, rows = read(tmp_path, ["id", name], filters)

    years = {"a": 2020, "b": 2021}
    kinds = {"csv": str}
    expected = [(one, kinds.get(kind, int)(years[one])) for one in ids for _ in range(2)]
    assert [(row["id"], row[name]) for row in rows] == expected
    assert schema.field(name).type == (pa.string() if kind == "csv" else pa.int64())


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_ids_and_texts_are_not_replaced_by_the_path(tmp_path, kind):
    write(tmp_path / "id=7", kind, [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}])

    with pytest.raises(InputError, match=r"'id' stands in the file and in its path.*rename the fo"):
        list_corpus(Inputs(path=str(tmp_path)))
    assert list_corpus(Inputs(path=str(tmp_path), id_column=None)).schema.names == ["text"]


def test_a_partition_value_of_another_type_is_a_string(tmp_path):
    write(tmp_path / "day=monday", "parquet", [{"id": "a", "day": 1}])

    schema, rows = read(tmp_path, ["day"])

    assert (schema.field("day").type, rows) == (pa.string(), [{"day": "monday"}])
