"""Tables of lakes are never read as loose files: old rows would come along."""

import uuid

import deltalake
import lancedb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import load_catalog

from stx_core.errors import InputError
from stx_core.evaluation.files import list_parts
from stx_core.store.corpus.readers import list_shards
from stx_core.store.files.filesystem import write_new

TABLE = pa.table({"id": ["a", "b"], "text": ["x", "y"], "year": [2020, 2021]})


def delta(folder):
    deltalake.write_deltalake(str(folder / "t"), TABLE, partition_by=["year"])
    return folder / "t", "Delta table"


def iceberg(folder):
    folder.mkdir()
    settings = {"type": "sql", "uri": f"sqlite:///{folder}/c.db", "warehouse": f"file://{folder}"}
    catalog = load_catalog("default", **settings)
    catalog.create_namespace("n")
    catalog.create_table("n.t", TABLE.schema).append(TABLE)
    return folder / "n" / "t", "Iceberg table"


def lance(folder):
    lancedb.connect(str(folder)).create_table("t", TABLE)
    return folder / "t.lance", "Lance dataset"


def hudi(folder):
    (folder / "t" / ".hoodie").mkdir(parents=True)
    (folder / "t" / ".hoodie" / "hoodie.properties").write_text("hoodie.table.name=t")
    (folder / "t" / "2026" / "01").mkdir(parents=True)
    pq.write_table(TABLE, folder / "t" / "2026" / "01" / "a.parquet")
    return folder / "t", "Hudi table"


@pytest.mark.parametrize("make", [delta, iceberg, lance, hudi])
def test_a_table_is_refused_however_it_is_named(tmp_path, make):
    table, kind = make(tmp_path / "lake")
    file = next(path for path in sorted(table.rglob("*")) if path.suffix in (".parquet", ".lance"))
    line = f"{table}: a {kind}, whose files hold rows that were deleted or replaced too; write its"

    names = [table, table.parent, file, file.parent, f"{table}/*/*.parquet", f"{table}/**"]
    for name in map(str, names):
        if "*" in name and not any(path.suffix == ".parquet" for path in table.glob("*/*")):
            continue
        with pytest.raises(InputError, match=line):
            list_shards([name])
    with pytest.raises(InputError, match=line):
        list_parts(str(table))


def test_a_table_in_another_store_is_refused(tmp_path):
    table, _ = delta(tmp_path)
    root = f"memory://{uuid.uuid4().hex}/lake"
    for path in table.rglob("*"):
        if path.is_file():
            write_new(f"{root}/t/{path.relative_to(table)}", path.read_bytes())

    for name in (root, f"{root}/t", f"{root}/t/year=2020"):
        with pytest.raises(InputError, match="lake/t: a Delta table"):
            list_shards([name])


def test_the_files_of_a_dataset_of_stx_are_refused_those_beside_them_are_not(tmp_path):
    for name in ("_stx/log/1.json", "data/dense/a.parquet", "docs/a.parquet"):
        (tmp_path / name).parent.mkdir(parents=True)
        pq.write_table(TABLE, tmp_path / name)

    with pytest.raises(InputError, match=f"{tmp_path}: a dataset of stx, .* stx export '"):
        list_shards([str(tmp_path)])
    assert len(list_shards([str(tmp_path / "docs")])) == 1


def test_folders_of_similar_names_are_no_tables(tmp_path):
    for name in ("metadata", "log", "versions"):
        (tmp_path / name).mkdir()
        pq.write_table(TABLE, tmp_path / name / "a.parquet")
    (tmp_path / "_delta_log").mkdir()

    assert len(list_shards([str(tmp_path)])) == 3
