"""Samples of a dataset: how many rows, which ones, and that nothing is lost on the way."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from stx.pipelines.encode import run_encode
from stx.pipelines.sample import run_sample
from stx.pipelines.sampling.lowest import is_chosen, limits, lowest_hashes, shares
from stx.pipelines.spec.file import parse_spec
from stx.pipelines.spec.sample import SampleSpec
from stx_core.errors import SpecError, Stopped
from stx_core.store.snapshot import open_snapshot, snapshot_info
from stx_core.store.verify import find_problems


@pytest.fixture
def sample(corpus, spec_of, tmp_path):
    """Encodes 250 rows, 84 of them ``de``; then samples to a folder of a name."""
    run_encode(spec_of(corpus, inputs={"columns": ["lang"]}))

    def run(name="sample", max_units=None, **values):
        spec = {
            "sampled": {"path": str(tmp_path / "out")},
            "output": {"path": str(tmp_path / name)},
            "resources": {"runner": "local", "max_units": max_units},
        } | values
        return run_sample(parse_spec(spec, kind=SampleSpec))

    run.source, run.folder = str(tmp_path / "out"), tmp_path
    return run


def rows(path):
    return open_snapshot(str(path)).to_table().to_pylist()


def test_a_sample_has_the_requested_number_of_unchanged_rows(sample):
    assert sample(rows=40).committed

    chosen = rows(sample.folder / "sample")
    by_id = {row["id"]: row for row in rows(sample.source)}
    assert len(chosen) == 40
    assert all(row == by_id[row["id"]] for row in chosen)
    facts = snapshot_info(str(sample.folder / "sample")).outputs["dense"]
    assert facts["settings"] == snapshot_info(sample.source).outputs["dense"]["settings"]
    assert list(find_problems(str(sample.folder / "sample"))) == []


def test_the_same_rows_are_chosen_again_and_others_by_another_seed(sample):
    ids = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        sample(name, rows=50, seed=seed)
        ids[name] = {row["id"] for row in rows(sample.folder / name)}

    assert ids["a"] == ids["b"] != ids["c"]
    assert not sample("a", rows=50, seed=1).committed


def test_each_value_of_a_column_has_its_share(sample):
    sample(rows=25, by="lang")

    counts = Counter(row["lang"] for row in rows(sample.folder / "sample"))
    # 84 of 250 rows: 8.4 of 25.
    assert counts == {"de": 8, "en": 17}


def test_more_rows_than_there_are_gives_all_of_them(sample):
    sample(rows=1000, by="lang")

    assert len(rows(sample.folder / "sample")) == 250


def test_a_stopped_run_goes_on_and_gives_the_same_sample(sample):
    sample("whole", rows=30)
    for _ in range(20):
        try:
            sample("stopped", max_units=1, rows=30)
            break
        except Stopped:
            pass

    assert rows(sample.folder / "stopped") == rows(sample.folder / "whole")


def test_an_unknown_column_or_output_is_named(sample):
    with pytest.raises(SpecError, match="no column 'language'; it has id, lang"):
        sample(rows=5, by="language")
    with pytest.raises(SpecError, match="has the outputs dense; name one"):
        sample(rows=5, output_of="sparse")


def test_limits_of_many_strata_are_those_of_a_sort_of_each():
    random = np.random.default_rng(0)
    names = pa.array(
        [None if value == 0 else str(value) for value in random.integers(0, 300, 5000)]
    )
    table = pa.table({"stratum": names, "hash": random.permutation(5000)})
    units = [lowest_hashes(table.slice(start, 500), 700) for start in range(0, 5000, 500)]

    highest = limits(units, 700)

    hashes = {}
    for name, value in zip(names.to_pylist(), table["hash"].to_pylist(), strict=True):
        hashes.setdefault(name, []).append(value)
    rows_of = shares({name: len(values) for name, values in hashes.items()}, 700)
    assert highest == {
        name: sorted(values)[rows_of[name] - 1] if rows_of[name] else -1
        for name, values in hashes.items()
    }
    assert is_chosen(table, highest).sum() == sum(rows_of.values()) == 700
