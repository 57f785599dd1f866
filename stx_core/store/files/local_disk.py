"""Writing on a local disk: all of a file is visible under its name, or nothing. And listing it."""

import errno
import io
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from stx_core import failpoints
from stx_core.errors import StoreError


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
    _sync_folder(os.path.dirname(path))


def is_full(error: BaseException) -> bool:
    """Tell whether a write failed for want of space, or of the quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def scratch_space(parent: str | None = None) -> Iterator[str]:
    """A temporary folder while the block runs.

    Args:
        parent: where; None for the folder of the system, or what TMPDIR names.

    Raises:
        StoreError: there is no room for temporary files, or none can be made; says where.
    """
    try:
        where = parent or tempfile.gettempdir()
    except FileNotFoundError as error:
        raise StoreError(
            f"no temporary files can be made ({error}): free some space, or let TMPDIR name "
            "another folder"
        ) from error
    try:
        with tempfile.TemporaryDirectory(prefix="stx-", dir=where) as folder:
            yield folder
    except OSError as error:
        named = error.filename
        elsewhere = named is not None and not os.path.abspath(named).startswith(where)
        if not is_full(error) or elsewhere:
            raise
        raise StoreError(
            f"{where}: no space left on the disk for temporary files; free some, or let TMPDIR "
            "name another folder, and run again; finished units are kept"
        ) from error


def own_folder(name: str) -> str:
    """A folder among the temporary ones that no other user of the machine can write to.

    Raises:
        StoreError: its place is taken by somebody else.
    """
    folder = os.path.join(tempfile.gettempdir(), f"{name}-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    status = os.lstat(folder)
    is_private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    if status.st_uid != os.getuid() or not is_private:
        raise StoreError(f"{folder}: belongs to others or is open to them; remove it")
    return folder


@contextmanager
def _temporary(path: str) -> Iterator[str]:
    """A name beside a path that nobody else uses; the folder is made, the file removed."""
    folder, name = os.path.split(path)
    missing = []
    above = folder
    while above and not os.path.isdir(above):
        missing.append(above)
        above = os.path.dirname(above)
    for new in reversed(missing):
        try:
            os.mkdir(new)
        except FileExistsError as error:
            if os.path.isdir(new):
                continue  # another writer was faster
            # Of the folder, not of the file: must not look like a lost race.
            raise NotADirectoryError(f"{new} is a file, a folder is needed") from error
        # So that a crash of the machine does not lose it.
        _sync_folder(os.path.dirname(new))
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def find(folder: str) -> Iterator[tuple[str, dict[str, float]]]:
    """Path relative to a folder, ``size`` and ``mtime`` of all that lies below it and is none.

    Links are not followed, but have the size of their file. An absent folder holds nothing.

    Raises:
        OSError: a folder cannot be listed.
    """
    waiting = [folder]
    while waiting:
        inside = waiting.pop()
        try:
            entries = os.scandir(inside)
        except (FileNotFoundError, NotADirectoryError):
            continue  # never there, or removed meanwhile
        prefix = "" if inside == folder else os.path.relpath(inside, folder) + os.sep
        with entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                    continue
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    size = status.st_size
                    if entry.is_symlink() and os.path.exists(entry.path):
                        size = entry.stat().st_size
                    yield prefix + entry.name, {"size": size, "mtime": status.st_mtime}


def names_in(folder: str, kind: Literal["file", "directory"]) -> list[str]:
    """Names of the files, or of the folders, in a folder, sorted; links are neither."""
    with os.scandir(folder) as entries:
        look = os.DirEntry.is_dir if kind == "directory" else os.DirEntry.is_file
        return sorted(entry.name for entry in entries if look(entry, follow_symlinks=False))


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
