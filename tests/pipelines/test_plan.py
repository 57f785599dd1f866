import json
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stx.pipelines.encoding import keys as unit_keys
from stx.pipelines.encoding import plan as planning
from stx.pipelines.models.settings import EncoderSettings, fingerprint
from stx.pipelines.planning import pool as pools
from stx.pipelines.planning.dataset_state import UNIT_KEYS, DatasetState
from stx.pipelines.planning.pool import make_pool
from stx.pipelines.running.lazy import Mapped
from stx.pipelines.spec.file import parse_spec
from stx.pipelines.spec.parts import Resources
from stx_core.store.corpus.units import Unit, Units

NOTHING = DatasetState()
SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])


def make_plan(spec, units, encoders, state, schema=SCHEMA):
    return planning.make_plan(spec, units, schema, encoders=encoders, state=state)


def settings(**changes):
    values = {
        "model": "some/model",
        "type": "dense",
        "revision": "abc",
        "files": "f00d",
        "task": "document",
        "prompt": None,
        "max_seq_length": None,
        "dtype": "float32",
        "normalize": False,
        "truncate_dim": None,
        "store_as": "float32",
        "max_active_dims": None,
        "trust_remote_code": False,
        "allow_pickle": False,
    }
    return EncoderSettings(**(values | changes))


def spec_with(**changes):
    values = {
        "inputs": {"path": "corpus"},
        "models": {"dense": {"model": "some/model"}},
        "output": {"path": "out"},
    }
    return parse_spec(values | changes)


def units(n):
    return Units.of(
        Unit(i, f"shard-{i // 3}", "1", "parquet", i % 3 * 10, i % 3 * 10 + 10) for i in range(n)
    )


def keys_of(planned):
    return make_plan(spec_with(), planned, {"dense": settings()}, NOTHING).parts["dense"].keys


def unit_keys_of(pairs):
    """(output, key) pairs as a table."""
    return pa.Table.from_pylist(
        [dict(zip(UNIT_KEYS.names, pair, strict=True)) for pair in pairs], schema=UNIT_KEYS
    )


@pytest.mark.parametrize(
    "change",
    [
        {"files": "beef"},
        {"task": "query"},
        {"prompt": "passage: "},
        {"max_seq_length": 128},
        {"dtype": "bfloat16"},
        {"normalize": True},
        {"truncate_dim": 64},
        {"store_as": "float16"},
        {"max_active_dims": 10},
        {"type": "sparse"},
    ],
)
def test_everything_that_changes_vectors_changes_the_fingerprint(change):
    assert fingerprint(settings(**change)) != fingerprint(settings())


@pytest.mark.parametrize("change", [{"model": "/elsewhere"}, {"revision": None}])
def test_the_location_of_a_model_does_not_change_the_fingerprint(change):
    assert fingerprint(settings(**change)) == fingerprint(settings())


def test_without_a_snapshot_everything_is_due():
    plan = make_plan(spec_with(), units(5), {"dense": settings()}, NOTHING)

    assert plan.parts["dense"].due.to_pylist() == [0, 1, 2, 3, 4]
    assert plan.due.to_pylist() == [0, 1, 2, 3, 4]
    assert [plan.outputs_due(i) for i in range(5)] == [["dense"]] * 5
    assert plan.n_due_rows == plan.n_rows == 50


def test_due_units_come_shard_by_shard_in_the_order_of_ranks():
    state = DatasetState(done=pa.chunked_array([keys_of(units(7)).take(pa.array([1, 6]))]))
    plan = make_plan(spec_with(), units(7), {"dense": settings()}, state)

    due = plan.due_units({"shard-0": 2, "shard-1": 0, "shard-2": 1})

    assert [unit.unit.index for unit in due] == [3, 4, 5, 0, 2]
    assert [unit.unit.index for unit in due[1:4]] == [4, 5, 0]
    assert (due[-1], due[0]) == (list(due)[-1], list(due)[0])
    assert due[0].keys == {"dense": keys_of(units(7))[3].as_py()}
    assert [unit.unit.index for unit in plan.due_units()] == [0, 2, 3, 4, 5]


def test_a_mapped_sequence_makes_items_when_asked_and_knows_their_positions():
    made = []
    mapped = Mapped("abcdef", lambda position, item: made.append(item) or (position, item))

    assert (len(mapped), mapped[-1]) == (6, (5, "f"))
    assert list(mapped[2:4]) == [(2, "c"), (3, "d")]
    assert mapped[2:][1] == (3, "d")
    assert mapped[::3] == [(0, "a"), (3, "d")]
    assert made == ["f", "c", "d", "d", "a", "d"]


@given(st.sets(st.integers(0, 11)), st.sets(st.integers(0, 11)))
def test_each_unit_is_either_carried_over_or_done_or_due(carried, done):
    keys = make_plan(spec_with(), units(12), {"dense": settings()}, NOTHING).parts["dense"].keys
    state = DatasetState(
        1 if carried else 0,
        {},
        unit_keys_of([("dense", keys[i].as_py()) for i in carried]),
        pa.chunked_array([keys.take(pa.array(list(done), pa.int64()))]),
    )

    part = make_plan(spec_with(), units(12), {"dense": settings()}, state).parts["dense"]

    assert part.n_carried + part.n_done + len(part.due) == 12
    assert set(part.due.to_pylist()) == set(range(12)) - carried - done
    assert part.n_carried == len(carried)


def test_the_same_unit_has_another_key_for_each_output_and_input_setting():
    found = {
        make_plan(spec, units(1), {"dense": one}, NOTHING).parts["dense"].keys[0].as_py()
        for one in (settings(), settings(normalize=True))
        for spec in (
            spec_with(),
            spec_with(inputs={"path": "corpus", "columns": ["lang"]}),
            spec_with(inputs={"path": "corpus", "filter": [["lang", "==", "en"]]}),
            spec_with(output={"path": "out", "empty_text": "encode"}),
        )
    }

    assert len(found) == 8


def test_where_the_output_goes_and_how_many_actors_work_do_not_change_keys():
    specs = [
        spec_with(),
        spec_with(output={"path": "other"}),
        spec_with(resources={"actors": 7, "token_budget": 100, "runner": "local"}),
    ]

    found = {
        tuple(
            make_plan(s, units(3), {"dense": settings()}, NOTHING).parts["dense"].keys.to_pylist()
        )
        for s in specs
    }

    assert len(found) == 1


def test_a_snapshot_is_current_only_with_exactly_the_planned_units():
    plan = make_plan(spec_with(), units(3), {"dense": settings()}, NOTHING)
    pairs = [("dense", key) for key in plan.parts["dense"].keys.to_pylist()]
    outputs = {"dense": {"fingerprint": fingerprint(settings())}}
    more = ("dense", "old")

    for carried, is_current in ((pairs, True), (pairs[1:], False), ([*pairs, more], False)):
        state = DatasetState(4, outputs, unit_keys_of(carried))
        assert replace(plan, state=state).is_current == is_current


def test_a_snapshot_of_no_rows_is_current_only_for_the_same_outputs():
    plan = make_plan(spec_with(), units(0), {"dense": settings()}, NOTHING)

    same = {"dense": {"fingerprint": fingerprint(settings())}}
    assert replace(plan, state=DatasetState(1, same)).is_current
    other = {"dense": {"fingerprint": "of another model"}}
    assert not replace(plan, state=DatasetState(1, other)).is_current
    assert not replace(plan, state=DatasetState(1)).is_current


@pytest.mark.parametrize(
    ("asked", "cpus", "gpus", "actors", "per_actor"),
    [
        ({}, 3, 0, 1, (2, 0)),  # a laptop of two cores; Ray was told of one more
        ({}, 5, 0, 2, (2, 0)),
        ({}, 2, 0, 1, (1, 0)),  # a cluster of two CPUs: one stays for readers and writers
        ({}, 64, 8, 8, (2, 1)),
        ({}, 9, 8, 4, (2, 1)),  # more GPUs than CPUs to feed them
        ({"actors": 3, "cpus_per_actor": 4}, 64, 0, 3, (4, 0)),
        ({"gpus_per_actor": 0.5}, 64, 2, 4, (2, 0.5)),
    ],
)
def test_the_pool_is_derived_from_the_cluster(asked, cpus, gpus, actors, per_actor):
    pool = make_pool(Resources(**asked), cpus, gpus)

    assert (pool.actors, (pool.cpus, pool.gpus)) == (actors, per_actor)


@pytest.mark.parametrize(
    ("asked", "cpus", "gpus", "told"),
    [
        ({"actors": [1, 4]}, 9, 0, "ray: 1 to 4 actors x 2 cores"),
        # Nothing has joined yet.
        ({"actors": [2, 8], "gpus_per_actor": 1}, 0, 0, "ray: 2 to 8 actors x 2 cores + 1 GPU"),
        ({"actors": 1, "custom": {"fast": 1}}, 9, 0, "ray: 1 actor x 2 cores + 1 fast"),
    ],
)
def test_the_plan_says_how_far_the_pool_may_grow_and_where_it_is(asked, cpus, gpus, told):
    assert str(make_pool(Resources(**asked), cpus, gpus)) == told


def test_a_container_quota_counts_as_cores(tmp_path, monkeypatch):
    quota = tmp_path / "cpu.max"
    quota.write_text("100000 100000\n")
    monkeypatch.setattr(pools, "_CGROUP_QUOTA", quota)

    assert pools.available_cores() == 1


def test_the_text_separator_is_in_keys_of_joined_columns_only(monkeypatch):
    monkeypatch.setattr(unit_keys, "unit_key", lambda unit, fields: json.dumps(fields))
    fields = [
        unit_keys.unit_keys(
            spec_with(inputs={"path": "corpus", "text_column": column}),
            units(1),
            SCHEMA,
            output="d",
            output_fingerprint="f",
        )[0]
        for column in ("text", ["title", "text"])
    ]

    assert ["joining" in json.loads(key.as_py()) for key in fields] == [False, True]
