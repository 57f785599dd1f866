"""Folders of parts: each is there whole or not at all, and a second start writes only the rest."""

import os
import tempfile
from collections.abc import Callable, Mapping

from stx.pipelines.exports.vectors import Vectors
from stx_core.errors import SpecError
from stx_core.store.files.filesystem import file_info, list_sizes, upload, write_over
from stx_core.store.files.urls import join, redact

# Of some 300 MB as text, of 100 MB as Parquet, at a width of 384.
ROWS_PER_PART = 65_536


def write_parts(
    vectors: Vectors,
    destination: str,
    ending: str,
    write: Callable[[Vectors, str], None],
    *,
    beside: Mapping[str, bytes] | None = None,
    rows_per_part: int | None = None,
) -> int:
    """Write vectors into a folder, part by part; gives the rows that are there in the end.

    The name of a part says what is in it, so those that an interrupted start has finished are
    known by their names, and are left as they are.

    Args:
        vectors: what to write.
        destination: folder or URL; absent, empty, or left by an interrupted start.
        ending: of the parts' names.
        write: writes some of the vectors to a local path.
        beside: small files to put into the folder first, by name.
        rows_per_part: see `Vectors.parts`; None for the usual.

    Raises:
        SpecError: something else is in the folder, or it is a file.
        StoreError: a file cannot be read or written.
    """
    size = rows_per_part or ROWS_PER_PART
    parts = {f"{part.name}{ending}": part.vectors for part in vectors.parts(size)}
    refuse_file(destination)
    existing = list_sizes(destination)
    if foreign := sorted(existing.keys() - {*parts, *(beside or {})}):
        raise SpecError(
            f"{redact(destination)}: holds {foreign[0]}, which this export does not write; remove "
            "the folder, or export to another one"
        )
    for name, data in (beside or {}).items():
        write_over(join(destination, name), data)
    with tempfile.TemporaryDirectory(prefix="stx-") as folder:
        path = os.path.join(folder, "part")
        for name, part in parts.items():
            if name not in existing:
                write(part, path)
                upload(path, join(destination, name))
    return vectors.n_rows


def refuse_file(url: str) -> None:
    """Check that no file is where a folder is to be.

    Raises:
        SpecError: one is.
    """
    try:
        file_info(url)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return
    raise SpecError(f"{redact(url)}: is a file; name a folder")
