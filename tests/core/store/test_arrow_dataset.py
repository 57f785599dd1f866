import datasets
import pyarrow as pa
import pytest

from stx_core.errors import InputError, SpecError
from stx_core.store.corpus import arrow_dataset
from stx_core.store.corpus.columns import corpus_schema
from stx_core.store.corpus.readers import list_shards, read_rows
from stx_core.store.corpus.units import plan_units

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string())])


@pytest.fixture
def dataset():
    return datasets.Dataset.from_dict(
        {"id": list(range(20)), "text": [f"text {row}" for row in range(20)]}
    )


@pytest.fixture(autouse=True)
def _fresh():
    arrow_dataset._open.cache_clear()


def read_all(url, filters=()):
    units = plan_units(list_shards([url]), 7)
    parts = [read_rows(unit, SCHEMA, filters, "id") for unit in units]
    return pa.concat_tables([part.table for part in parts])


def test_a_saved_folder_is_one_shard_with_all_its_files(tmp_path, dataset):
    dataset.save_to_disk(tmp_path / "d", num_shards=3)

    (shard,) = list_shards([str(tmp_path / "d")])

    assert (shard.format, shard.n_rows) == ("arrow", 20)
    assert corpus_schema([shard], ["id", "text"]) == SCHEMA
    assert read_all(shard.url)["id"].to_pylist() == list(range(20))


def test_a_selection_that_was_saved_keeps_its_order_and_filters_apply(tmp_path, dataset):
    dataset.select([5, 3, 9]).save_to_disk(tmp_path / "d")

    assert read_all(str(tmp_path / "d"))["id"].to_pylist() == [5, 3, 9]
    assert read_all(str(tmp_path / "d"), [("id", ">", 4)])["id"].to_pylist() == [5, 9]


def test_identity_is_stable_and_differs_for_other_rows(tmp_path, dataset):
    dataset.save_to_disk(tmp_path / "a")
    dataset.select([1]).save_to_disk(tmp_path / "b")

    first = list_shards([str(tmp_path / "a")])
    arrow_dataset._open.cache_clear()

    assert list_shards([str(tmp_path / "a")]) == first
    assert list_shards([str(tmp_path / "b")])[0].identity != first[0].identity


def test_several_splits_must_be_named(tmp_path, dataset):
    datasets.DatasetDict({"train": dataset, "test": dataset}).save_to_disk(tmp_path / "d")

    with pytest.raises(InputError, match="several splits; name one: .*/d/train, .*/d/test"):
        list_shards([str(tmp_path / "d")])
    assert list_shards([str(tmp_path / "d" / "test")])[0].n_rows == 20


def test_a_damaged_folder_is_named(tmp_path, dataset):
    dataset.save_to_disk(tmp_path / "d")
    (tmp_path / "d" / "data-00000-of-00001.arrow").unlink()

    with pytest.raises(InputError, match="/d: no whole datasets folder"):
        list_shards([str(tmp_path / "d")])


def test_a_missing_column_is_named(tmp_path, dataset):
    dataset.save_to_disk(tmp_path / "d")
    unit = plan_units(list_shards([str(tmp_path / "d")]), 100)[0]

    with pytest.raises(InputError, match="no column 'txt'"):
        read_rows(unit, pa.schema([("txt", pa.string())]))


def test_a_hub_name_is_opened_by_datasets(monkeypatch, dataset):
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **kwargs: asked.append((args, kwargs)) or dataset
    )

    table = read_all("hf-dataset://owner/name/default/train")

    assert asked == [(("owner/name", "default"), {"split": "train"})]
    assert table["id"].to_pylist() == list(range(20))


def test_a_hub_name_without_its_split_is_refused():
    with pytest.raises(SpecError, match="owner/name/config/split"):
        list_shards(["hf-dataset://name/train"])


def test_a_folder_that_was_not_saved_by_datasets_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"state\.json"):
        list_shards([str(tmp_path)], format="arrow")


@pytest.mark.parametrize("name", ["..%2F..%2Fetc", "http:%2F%2F10.0.0.1%2Fx", ".."])
def test_a_hub_name_cannot_smuggle_a_path_or_a_url(name):
    with pytest.raises(SpecError, match="owner/name/config/split"):
        list_shards([f"hf-dataset://{name}/default/train"])


@pytest.mark.parametrize("columns", [{"id": [], "text": []}, {}])
def test_a_folder_without_rows_is_a_corpus_without_rows(tmp_path, columns):
    empty = datasets.Dataset.from_dict(columns)
    empty.save_to_disk(tmp_path / "d")

    (shard,) = list_shards([str(tmp_path / "d")])

    assert (shard.n_rows, shard.schema.names) == (0, list(columns))
    assert shard.identity == empty._fingerprint


def test_an_empty_split_can_be_named_too(tmp_path, dataset):
    splits = {"train": dataset, "test": dataset.select([])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "d")

    with pytest.raises(InputError, match="several splits; name one: .*/d/train, .*/d/test"):
        list_shards([str(tmp_path / "d")])
    assert list_shards([str(tmp_path / "d" / "test")])[0].n_rows == 0


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"_data_files": 7}', '{"_data_files": [3]}'])
def test_a_folder_with_a_spoilt_state_is_named(tmp_path, dataset, content):
    dataset.save_to_disk(tmp_path / "d")
    (tmp_path / "d" / "state.json").write_text(content)

    with pytest.raises(InputError, match="/d: no whole datasets folder"):
        list_shards([str(tmp_path / "d")])
