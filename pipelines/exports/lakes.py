"""Tables of Lance, Delta Lake and Iceberg, filled commit by commit.

A second start goes on where the first one ended: each commit says, in the table's own log, which
export it belongs to and how far that has come. Rows are appended, so an id that occurs twice is two
rows.
"""

import os
from collections.abc import Callable

import pyarrow as pa
import pyarrow.dataset as ds

from stx.pipelines.exports.engines import load_engine
from stx.pipelines.exports.lake_types import lake_schema
from stx.pipelines.exports.options import ExportOptions
from stx.pipelines.exports.tables import table_of, table_schema
from stx.pipelines.exports.vectors import Vectors, open_vectors
from stx_core.errors import SpecError
from stx_core.store.files.urls import LOCAL, local_path, redact, scheme

# Some 350,000 rows at a width of 384. Each commit is a file more to read for those who open the
# table; but the writers hold much of one in memory, Delta's two times as much.
_BYTES_PER_COMMIT = 512 * 2**20

_EXPORT_KEY, _COMMITS_KEY = "stx.export", "stx.commits"


Append = Callable[[pa.RecordBatchReader, int], None]
"""Commits some rows, and that so many commits of the export are in then."""


def _export(vectors: Vectors) -> str:
    """Mark of a table: what goes into it, and how it is cut into commits."""
    return f"{vectors.digest()}-{vectors.rows_in(_BYTES_PER_COMMIT)}"


def _fill(
    vectors: Vectors, schema: pa.Schema, destination: str, *, n_commits: int | None, append: Append
) -> int:
    """Append what is not in the table yet; gives the rows of the export.

    Args:
        vectors: of the export.
        schema: of the table.
        destination: for messages.
        n_commits: of this export that are in; None if the table holds something else.
        append: commits a part.
    """
    if n_commits is None:
        raise SpecError(
            f"{redact(destination)}: holds another table or export; remove it, or export to "
            "another name"
        )
    for number, part in enumerate(vectors.parts(vectors.rows_in(_BYTES_PER_COMMIT)), start=1):
        if number > n_commits:
            batches = (
                rows
                for batch in part.vectors.batches()
                for rows in table_of(batch, schema).to_batches()
            )
            append(pa.RecordBatchReader.from_batches(schema, batches), number)
    return vectors.n_rows


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
    try:
        table = database.open_table(name.removesuffix(".lance"))
    except ValueError:  # there is none
        marked = schema.with_metadata({_EXPORT_KEY: _export(vectors)})
        table = database.create_table(name.removesuffix(".lance"), schema=marked)
    # Its commits carry no words of ours: the number of rows tells how far the export is.
    mark = (table.schema.metadata or {}).get(_EXPORT_KEY.encode())
    rows, n_commits = table.count_rows(), 0
    for part in vectors.parts(vectors.rows_in(_BYTES_PER_COMMIT)):
        if rows < part.vectors.n_rows:
            break
        rows, n_commits = rows - part.vectors.n_rows, n_commits + 1
    is_export = rows == 0 and mark == _export(vectors).encode()

    def append(rows: pa.RecordBatchReader, n_commits: int) -> None:  # noqa: ARG001  (of all tables)
        table.add(rows)

    return _fill(
        vectors, schema, destination, n_commits=n_commits if is_export else None, append=append
    )


def write_delta(dataset: ds.FileSystemDataset, destination: str, options: ExportOptions) -> int:
    """Fill a Delta table; gives the rows. Dense vectors become lists of float32.

    Raises:
        SpecError: something else is there, or Delta has no type for a column, see `lake_schema`.
        InputError: a value does not fit.
    """
    vectors = open_vectors(dataset, options, "delta", "dense", "sparse")
    deltalake = load_engine("deltalake", "delta", "delta")
    url = local_path(destination) if scheme(destination) == LOCAL else destination
    schema = lake_schema(vectors, has_times=False)
    export = _export(vectors)

    def append(rows: pa.RecordBatchReader, n_commits: int) -> None:
        # An application's transaction: the export, and its number of commits.
        transaction = deltalake.Transaction(export, n_commits)
        deltalake.write_deltalake(
            url,
            rows,
            mode="append" if n_commits else "error",
            commit_properties=deltalake.CommitProperties(app_transactions=[transaction]),
        )

    if not deltalake.DeltaTable.is_deltatable(url):
        append(pa.RecordBatchReader.from_batches(schema, []), 0)
    n_commits = deltalake.DeltaTable(url).transaction_version(export)
    return _fill(vectors, schema, destination, n_commits=n_commits, append=append)


def write_iceberg(dataset: ds.FileSystemDataset, destination: str, options: ExportOptions) -> int:
    """Fill an Iceberg table; gives the rows. Dense vectors become lists of float32.

    Args:
        dataset: dense or sparse.
        destination: ``NAMESPACE.TABLE`` of the catalog; without one, ``FOLDER/NAMESPACE.TABLE``: a
            local warehouse with its own SQLite catalog, ``FOLDER/catalog.db``.
        options: `catalog` is the name of one that pyiceberg is configured for.

    Raises:
        SpecError: the name is no ``NAMESPACE.TABLE``, something else is there, or Iceberg has no
            type for a column, see `lake_schema`.
        InputError: a value does not fit.
    """
    vectors = open_vectors(dataset, options, "iceberg", "dense", "sparse")
    schema = lake_schema(vectors, has_times=True)
    pyiceberg = load_engine("pyiceberg.catalog", "iceberg", "iceberg")
    folder, _, name = destination.rpartition("/")
    if name.count(".") != 1 or not all(name.split(".")) or (options.catalog and folder):
        place = "NAMESPACE.TABLE" if options.catalog else "FOLDER/NAMESPACE.TABLE"
        raise SpecError(f"{redact(destination)}: expected {place}")
    if options.catalog:
        catalog = pyiceberg.load_catalog(options.catalog)
    elif scheme(folder or ".") != LOCAL:
        raise SpecError(
            f"{redact(folder)}: a SQLite catalog is a local file; name another one by --catalog"
        )
    else:
        path = local_path(folder or ".")
        os.makedirs(path, exist_ok=True)
        # "default" is the name that pyiceberg takes where none is given: a catalog is found by it.
        catalog = pyiceberg.load_catalog(
            "default",
            type="sql",
            uri=f"sqlite:///{path}/catalog.db",
            warehouse=f"file://{path}",
        )
    catalog.create_namespace_if_not_exists(name.split(".")[0])
    export = _export(vectors)
    table = catalog.create_table_if_not_exists(
        name, schema=schema, properties={_EXPORT_KEY: export}
    )
    # The table's properties name the export, those of its snapshots the number of commits.
    n_commits: int | None = None
    if table.properties.get(_EXPORT_KEY) == export:
        snapshot = table.current_snapshot()
        n_commits = 0 if snapshot is None else int(snapshot.summary[_COMMITS_KEY] or 0)

    def append(rows: pa.RecordBatchReader, n_commits: int) -> None:
        table.append(rows, snapshot_properties={_COMMITS_KEY: str(n_commits)})

    return _fill(vectors, schema, destination, n_commits=n_commits, append=append)
