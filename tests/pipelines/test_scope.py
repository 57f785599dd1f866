import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines.planning.corpus import list_corpus
from stx.pipelines.planning.scope import Scope, find_scope
from stx.pipelines.spec.file import parse_spec
from stx_core.errors import InputError, SpecError


@pytest.fixture
def lake(tmp_path):
    """Three days, two shards each, four rows per shard."""
    for day in (1, 2, 3):
        for part in (0, 1):
            folder = tmp_path / "lake" / f"day={day}"
            folder.mkdir(parents=True, exist_ok=True)
            ids = [f"{day}-{part}-{row}" for row in range(4)]
            pq.write_table(
                pa.table({"id": ids, "text": ["a"] * 4}), folder / f"part-{part}.parquet"
            )
    return tmp_path / "lake"


def scope_of(lake, backfill, **inputs):
    spec = parse_spec(
        {
            "inputs": {"path": str(lake)} | inputs,
            "models": {"dense": {"model": "m"}},
            "output": {"path": "out"},
            "backfill": backfill,
        }
    )
    corpus = list_corpus(spec.inputs)
    return find_scope(spec.backfill, corpus.shards, corpus.schema, spec.inputs), corpus


def names(scope, corpus):
    return [shard.url[-20:] for shard in corpus.shards if scope.holds(shard.url)]


def test_without_a_backfill_every_shard_is_in(lake):
    scope, corpus = scope_of(lake, None)

    assert scope == Scope()
    assert len(names(scope, corpus)) == 6


def test_a_partition_condition_takes_shards_of_old_snapshots_too(lake):
    scope, corpus = scope_of(lake, {"partitions": [["day", ">=", 2]]})

    assert [name[:5] for name in names(scope, corpus)] == ["day=2"] * 2 + ["day=3"] * 2
    assert scope.holds("/gone/day=7/part-0.parquet")
    assert not scope.holds("/gone/day=1/part-0.parquet")
    assert not scope.holds("/elsewhere/part-0.parquet")


@pytest.mark.parametrize("as_file", [False, True])
def test_ids_take_the_shards_that_hold_them(lake, tmp_path, as_file):
    ids = ["1-0-3", "3-1-0", "nowhere"]
    if as_file:
        pq.write_table(pa.table({"id": ids}), tmp_path / "ids.parquet")
    given = str(tmp_path / "ids.parquet") if as_file else ids

    scope, corpus = scope_of(lake, {"ids": given})

    assert names(scope, corpus) == ["day=1/part-0.parquet", "day=3/part-1.parquet"]
    assert not scope.holds("/gone/day=1/part-0.parquet")


def test_backfill_ids_and_partitions_are_combined_with_and(lake):
    scope, corpus = scope_of(lake, {"ids": ["1-0-3", "3-1-0"], "partitions": [["day", "==", 3]]})

    assert names(scope, corpus) == ["day=3/part-1.parquet"]


@pytest.mark.parametrize(
    ("backfill", "inputs", "error", "message"),
    [
        ({}, {}, SpecError, "name the part"),
        ({"partitions": [["week", "==", 1]]}, {}, InputError, "no partition|no shard"),
        ({"ids": ["x"]}, {}, InputError, "none of the 1 ids"),
        ({"ids": [1.5]}, {}, SpecError, "ids"),
        ({"ids": ["x"]}, {"id_column": None}, SpecError, "id_column: null"),
    ],
)
def test_a_backfill_of_nothing_is_refused(lake, backfill, inputs, error, message):
    with pytest.raises(error, match=message):
        scope_of(lake, backfill, **inputs)


def test_ids_of_another_type_are_refused(lake, tmp_path):
    pq.write_table(pa.table({"id": [b"\xff"]}), tmp_path / "ids.parquet")

    with pytest.raises(InputError, match=r"ids\.parquet"):
        scope_of(lake, {"ids": str(tmp_path / "ids.parquet")})
