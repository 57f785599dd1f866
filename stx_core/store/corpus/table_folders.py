"""Tables of lakes: folders of files of which only a log says which ones count.

Read as loose files they give deleted and overwritten rows too, so they are refused.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from stx_core.errors import InputError
from stx_core.store.files.filesystem import connect
from stx_core.store.files.urls import LOCAL, join, redact, scheme

# Folders are looked into from afar: many at once.
_THREADS = 16

# Folder in the table that tells its kind, the kind, and how to write its rows as Parquet.
_KINDS = [
    ("_delta_log", "Delta table", "COPY (FROM delta_scan('{}')) TO 'rows.parquet' of DuckDB"),
    ("metadata", "Iceberg table", "COPY (FROM iceberg_scan('{}')) TO 'rows.parquet' of DuckDB"),
    (".hoodie", "Hudi table", "spark.read.format('hudi').load('{}').write.parquet('rows')"),
    ("_versions", "Lance dataset", "lance.dataset('{}').to_batches() and pyarrow.parquet"),
]
_STX = ("_stx/log", "dataset of stx", "stx export '{}' rows --format parquet")
# A dataset of ours may stand above other files: only those below these folders are its own.
_OWN = ("/data", "/quarantine")
_ICEBERG = (".metadata.json", ".metadata.json.gz", "version-hint.text")


def refuse_tables(files: Iterable[str]) -> None:
    """Check that files to read one by one do not belong to a table.

    Args:
        files: their URLs.

    Raises:
        InputError: a folder above one of them is a table of Delta Lake, Iceberg, Hudi or Lance, or
            a dataset of stx; says how to get at its rows.
    """
    folders = set()
    for url in files:
        head, separator, path = url.rpartition("://")
        parts = path.split("/")[:-1]
        for stop in range(1 if scheme(url) == LOCAL else 2, len(parts) + 1):
            # Folders of partitions are left out: there are many, and none a table.
            if "=" not in parts[stop - 1] and parts[stop - 1]:
                folders.add(head + separator + "/".join(parts[:stop]))
    with ThreadPoolExecutor(_THREADS) as pool:
        for wrong in pool.map(_table_in, sorted(folders)):
            if wrong is not None:
                folder, kind, way = wrong
                raise InputError(
                    f"{redact(folder)}: a {kind}, whose files hold rows that were deleted or "
                    f"replaced too; write its rows as Parquet, and name that: "
                    f"{redact(way.format(folder))}"
                )


def _table_in(folder: str) -> tuple[str, str, str] | None:
    """The table that a folder is, its kind, and how to read it; None if it is none."""
    places = [(folder, *kind) for kind in _KINDS]
    if folder.endswith(_OWN):
        places.append((folder.rpartition("/")[0], *_STX))
    for place, marker, kind, way in places:
        names: list[str] = []
        # What must not be listed above the inputs is not theirs.
        with suppress(OSError):
            filesystem, path = connect(join(place, marker))
            names = [name.rstrip("/") for name in filesystem.ls(path, detail=False)]
        if any(name.endswith(_ICEBERG) for name in names) if marker == "metadata" else names:
            return place, kind, way
    return None
