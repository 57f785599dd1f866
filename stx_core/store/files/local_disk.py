"""Writing on a local disk: all of a file is visible under its name, or nothing. And listing it."""

import io
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from stx_core import failpoints


def replace(path: str, data: bytes) -> None:
    """Write a file, or put new content in its place. Not synced: a crash may lose it."""
    with _temporary(path) as temporary:
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, path)


def copy(source: str, path: str) -> None:
    """Copy a file to a path, piece by piece."""
    with _temporary(path) as temporary:
        shutil.copyfile(source, temporary)
        os.replace(temporary, path)


def link_new(path: str, data: bytes) -> None:
    """Create a local file if it is absent, whole and durable, or raise FileExistsError.

    A temporary file is written, synced, then linked to its name: a crash in between leaves only
    the temporary file, where creating the name first would leave an empty winner for ever.
    """
    with _temporary(path) as temporary:
        with io.FileIO(temporary, "x") as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        failpoints.hit("link.before")
        os.link(temporary, path)
    folder_handle = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder_handle)
    finally:
        os.close(folder_handle)


@contextmanager
def _temporary(path: str) -> Iterator[str]:
    """A name beside a path that nobody else uses; the folder is made, the file removed."""
    folder, name = os.path.split(path)
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError as error:
        # Of the folder, not of the file: must not look like a lost race.
        raise NotADirectoryError(f"{error.filename} is a file, a folder is needed") from error
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def find(folder: str) -> dict[str, dict[str, Any]]:
    """Size and ``mtime`` of all that lies below a folder and is none, by path relative to it.

    Links are not followed, but have the size of their file. An absent folder holds nothing.

    Raises:
        OSError: a folder cannot be listed.
    """
    found: dict[str, dict[str, Any]] = {}
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                inside = list(entries)
        except (FileNotFoundError, NotADirectoryError):
            continue  # never there, or removed meanwhile
        for entry in inside:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
                continue
            with suppress(FileNotFoundError):
                told = entry.stat(follow_symlinks=False)
                size = told.st_size
                if entry.is_symlink() and os.path.exists(entry.path):
                    size = entry.stat().st_size
                name = os.path.relpath(entry.path, folder)
                found[name] = {"size": size, "mtime": told.st_mtime}
    return found
