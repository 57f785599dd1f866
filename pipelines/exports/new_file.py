"""Files that are written piece by piece, and are at their destination whole or not at all."""

import gzip
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from stx_core.errors import SpecError
from stx_core.store.files.filesystem import file_info, upload
from stx_core.store.files.urls import redact


def refuse_existing(url: str) -> None:
    """Check that nothing is at a destination.

    Raises:
        SpecError: something is.
    """
    try:
        file_info(url)
    except FileNotFoundError:
        return
    except IsADirectoryError as error:
        raise SpecError(f"{redact(url)}: is a folder; name a file in it") from error
    raise SpecError(f"{redact(url)}: exists; remove it, or export to another name")


@contextmanager
def new_file(url: str) -> Iterator[str]:
    """A local path to write to; what is there at the end is copied to the URL.

    Raises:
        SpecError: something is at the URL, before or after.
        StoreError: it cannot be written.
    """
    refuse_existing(url)
    with tempfile.TemporaryDirectory(prefix="stx-") as folder:
        path = os.path.join(folder, "file")
        yield path
        refuse_existing(url)
        upload(path, url)


@contextmanager
def new_lines(url: str) -> Iterator[io.BufferedIOBase]:
    """A stream to write lines to, compressed if the name ends in ``.gz``; as `new_file`."""
    with (
        new_file(url) as path,
        gzip.open(path, "wb") if url.endswith(".gz") else open(path, "wb") as stream,
    ):
        yield stream
