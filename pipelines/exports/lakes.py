"""Tables of Lance, Delta Lake and Iceberg, filled commit by commit.

A second start goes on where the first one ended: each commit says, in the table's own log, which
export it belongs to and how far that has come. Rows are appended, so an id that occurs twice is two
rows.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.dataset as ds

from stx.pipelines.exports.engines import load_engine
from stx.pipelines.exports.lake_types import lake_fields
from stx.pipelines.exports.options import ExportOptions
from stx.pipelines.exports.tables import table_of, table_schema
from stx.pipelines.exports.vectors import Vectors, open_vectors
from stx_core.errors import SpecError
from stx_core.store.files.urls import LOCAL, local_path, redact, scheme

# Some 350,000 rows at a width of 384. Each commit is a file more to read for those who open the
# table; but the writers hold much of one in memory, Delta's two times as much.
_BYTES_PER_COMMIT = 512 * 2**20

_EXPORT_KEY, _COMMITS_KEY = "stx.export", "stx.commits"


class _Table(Protocol):
    def n_commits(self) -> int | None:
        """How many commits of this export are in; None if the table holds something else."""

    def append(self, rows: pa.RecordBatchReader, n_commits: int) -> None:
        """Commit some rows, and that so many commits of the export are in then."""


def _export(vectors: Vectors) -> str:
    """What a table is marked with: what goes into it, and how it is cut into commits."""
    return f"{vectors.digest()}-{vectors.rows_in(_BYTES_PER_COMMIT)}"


def _fill(vectors: Vectors, schema: pa.Schema, destination: str, table: _Table) -> int:
    done = table.n_commits()
    if done is None:
        raise SpecError(
            f"{redact(destination)}: holds another table or export; remove it, or export to "
            "another name"
        )
    for number, part in enumerate(vectors.parts(vectors.rows_in(_BYTES_PER_COMMIT)), start=1):
        if number > done:
            table.append(_reader(part.vectors, schema), number)
    return vectors.n_rows


def _reader(vectors: Vectors, schema: pa.Schema) -> pa.RecordBatchReader:
    def batches() -> Iterator[pa.RecordBatch]:
        for batch in vectors.batches():
            yield from table_of(batch, schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())


def _lake_schema(vectors: Vectors, *, has_times: bool) -> pa.Schema:
    """Columns as Delta and Iceberg know them; dense vectors are lists of any length, of float32."""
    kind = pa.list_(pa.float32()) if vectors.kind == "dense" else vectors.vector_type
    copied = lake_fields(vectors, has_times=has_times)
    return pa.schema([pa.field("id", pa.string()), *copied, pa.field(vectors.column, kind)])


def write_lance(dataset: ds.FileSystemDataset, destination: str, options: ExportOptions) -> int:
    """Fill a Lance dataset, which is a table of LanceDB too; gives the rows.

    Args:
        dataset: dense or sparse. Sparse vectors are kept, LanceDB does not search in them.
        destination: ``FOLDER/NAME.lance``: LanceDB sees the table NAME of the database FOLDER.
        options: of the export.

    Raises:
        SpecError: the name has another ending, or something else is there.
    """
    vectors = open_vectors(dataset, options, "lance", "dense", "sparse")
    folder, _, name = destination.rstrip("/").rpartition("/")
    if not name.endswith(".lance") or name == ".lance":
        raise SpecError(f"{redact(destination)}: end the name in .lance")
    lancedb = load_engine("lancedb", "lance", "lance")
    database = lancedb.connect(folder or ".")
    schema = table_schema(vectors)
    table = _Lance(database, name.removesuffix(".lance"), schema, vectors)
    return _fill(vectors, schema, destination, table)


class _Lance:
    """Its commits carry no words of ours: how far the export is, the number of rows tells."""

    def __init__(self, database: Any, name: str, schema: pa.Schema, vectors: Vectors) -> None:  # noqa: ANN401
        self._vectors = vectors
        marked = schema.with_metadata({_EXPORT_KEY: _export(vectors)})
        try:
            self._table = database.open_table(name)
        except ValueError:  # there is none
            self._table = database.create_table(name, schema=marked)

    def n_commits(self) -> int | None:
        metadata = self._table.schema.metadata or {}
        if metadata.get(_EXPORT_KEY.encode()) != _export(self._vectors).encode():
            return None
        rows, commits = self._table.count_rows(), 0
        for part in self._vectors.parts(self._vectors.rows_in(_BYTES_PER_COMMIT)):
            if rows < part.vectors.n_rows:
                break
            rows, commits = rows - part.vectors.n_rows, commits + 1
        return commits if rows == 0 else None

    def append(self, rows: pa.RecordBatchReader, n_commits: int) -> None:
        self._table.add(rows)


def write_delta(dataset: ds.FileSystemDataset, destination: str, options: ExportOptions) -> int:
    """Fill a Delta table; gives the rows. Dense vectors become lists of float32.

    Raises:
        SpecError: something else is there, or Delta has no type for a column, see `lake_fields`.
        InputError: a value does not fit.
    """
    vectors = open_vectors(dataset, options, "delta", "dense", "sparse")
    deltalake = load_engine("deltalake", "delta", "delta")
    url = local_path(destination) if scheme(destination) == LOCAL else destination
    schema = _lake_schema(vectors, has_times=False)
    table = _Delta(deltalake, url, schema, _export(vectors))
    return _fill(vectors, schema, destination, table)


class _Delta:
    """Commits carry an application's transaction: the export, and its number of commits."""

    def __init__(self, deltalake: Any, url: str, schema: pa.Schema, export: str) -> None:  # noqa: ANN401
        self._deltalake, self._url, self._export = deltalake, url, export
        if not deltalake.DeltaTable.is_deltatable(url):
            none = pa.RecordBatchReader.from_batches(schema, [])
            deltalake.write_deltalake(url, none, mode="error", commit_properties=self._said(0))

    def n_commits(self) -> int | None:
        commits: int | None = self._deltalake.DeltaTable(self._url).transaction_version(
            self._export
        )
        return commits

    def append(self, rows: pa.RecordBatchReader, n_commits: int) -> None:
        said = self._said(n_commits)
        self._deltalake.write_deltalake(self._url, rows, mode="append", commit_properties=said)

    def _said(self, n_commits: int) -> Any:  # noqa: ANN401
        transaction = self._deltalake.Transaction(self._export, n_commits)
        return self._deltalake.CommitProperties(app_transactions=[transaction])


def write_iceberg(dataset: ds.FileSystemDataset, destination: str, options: ExportOptions) -> int:
    """Fill an Iceberg table; gives the rows. Dense vectors become lists of float32.

    Args:
        dataset: dense or sparse.
        destination: ``NAMESPACE.TABLE`` of the catalog; without one, ``FOLDER/NAMESPACE.TABLE``: a
            local warehouse with its own SQLite catalog, ``FOLDER/catalog.db``.
        options: `catalog` is the name of one that pyiceberg is configured for.

    Raises:
        SpecError: the name is no ``NAMESPACE.TABLE``, something else is there, or Iceberg has no
            type for a column, see `lake_fields`.
        InputError: a value does not fit.
    """
    vectors = open_vectors(dataset, options, "iceberg", "dense", "sparse")
    schema = _lake_schema(vectors, has_times=True)
    pyiceberg = load_engine("pyiceberg.catalog", "iceberg", "iceberg")
    folder, _, name = destination.rpartition("/")
    if name.count(".") != 1 or not all(name.split(".")) or (options.catalog and folder):
        place = "NAMESPACE.TABLE" if options.catalog else "FOLDER/NAMESPACE.TABLE"
        raise SpecError(f"{redact(destination)}: expected {place}")
    catalog = (
        pyiceberg.load_catalog(options.catalog)
        if options.catalog
        else _sqlite_catalog(pyiceberg.load_catalog, folder or ".")
    )
    catalog.create_namespace_if_not_exists(name.split(".")[0])
    properties = {_EXPORT_KEY: _export(vectors)}
    table = catalog.create_table_if_not_exists(name, schema=schema, properties=properties)
    return _fill(vectors, schema, destination, _Iceberg(table, _export(vectors)))


def _sqlite_catalog(load_catalog: Callable[..., Any], folder: str) -> Any:  # noqa: ANN401
    if scheme(folder) != LOCAL:
        raise SpecError(f"{redact(folder)}: a SQLite catalog is a local file; name another one by "
                        "--catalog")  # fmt: skip
    path = local_path(folder)
    # "default" is the name that pyiceberg takes where none is given: a catalog is found by it.
    os.makedirs(path, exist_ok=True)
    settings = {"type": "sql", "uri": f"sqlite:///{path}/catalog.db", "warehouse": f"file://{path}"}
    return load_catalog("default", **settings)


class _Iceberg:
    """The table's properties name the export, those of its snapshots the number of commits."""

    def __init__(self, table: Any, export: str) -> None:  # noqa: ANN401
        self._table, self._export = table, export

    def n_commits(self) -> int | None:
        if self._table.properties.get(_EXPORT_KEY) != self._export:
            return None
        snapshot = self._table.current_snapshot()
        return 0 if snapshot is None else int(snapshot.summary[_COMMITS_KEY] or 0)

    def append(self, rows: pa.RecordBatchReader, n_commits: int) -> None:
        self._table.append(rows, snapshot_properties={_COMMITS_KEY: str(n_commits)})
