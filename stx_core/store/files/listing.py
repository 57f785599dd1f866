"""Files that a path of the corpus names: a file, a folder with all below it, or a glob.

Nothing is left out in silence: what cannot be listed or looked at is an error that names it. A file
that is reached under several names (links, overlapping paths) is one file.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from stx_core.errors import InputError, StoreError
from stx_core.store.files.filesystem import (
    FileInfo,
    Info,
    connect,
    describe,
    local_identity,
    refuse_credentials,
)
from stx_core.store.files.retries import retry
from stx_core.store.files.urls import LOCAL, join, local_path, normal, redact, scheme

_MAGIC = "*?["
_ANY_DEPTH = "**"

_BAD_LINK = (
    "a link to a folder or to nothing; remove it, and name the folder itself among the inputs"
)


def list_files(url: str) -> list[FileInfo]:
    """List a file, a folder with all below it, or a glob, sorted by URL; each file once.

    A place that is there under exactly this name is taken as it is, brackets and all; else ``*``,
    ``?`` and ``[…]`` stand for parts of a name, and ``**`` for folders of any depth. A glob names
    files, not folders.

    Below the folder that is listed, names that start with ``_`` or ``.`` are left out with all
    that is in them, and so are folder markers (keys that end in ``/``). Hive partitions are not,
    such as ``_year=2020``.

    Raises:
        FileNotFoundError: nothing is there, or the glob matches nothing.
        InputError: something is no file: a link to a folder or to nothing, a pipe, a device.
        StoreError: a folder or file cannot be looked at; names it.
    """
    # Here, where it is whole: a "?" of a password is no glob.
    refuse_credentials(url)
    url = normal(url)
    connect(url)  # refuses what is no path at all
    base, pattern = _split(url)
    if pattern and _exists(url):
        base, pattern = url, []
    look = _local_files if scheme(url) == LOCAL else _remote_files
    files = once(list(look(base, pattern)))
    if files or (not pattern and _exists(url)):
        return files
    if not _exists(base):
        what = "file or folder" if scheme(url) == LOCAL else "bucket or folder, and no such file"
        raise FileNotFoundError(f"{redact(url)}: no such {what}")
    raise FileNotFoundError(
        f"{redact(url)}: no file matches; a glob names files, /** at its end all below a folder"
    )


def once(files: Sequence[FileInfo]) -> list[FileInfo]:
    """Each file once, sorted by URL.

    Of several names of one file the first stays, those that are no links before others. Under two
    hive partitions it is two files: their rows differ.
    """
    chosen: dict[tuple[str, str], FileInfo] = {}
    is_link = {
        file.url: scheme(file.url) == LOCAL and os.path.realpath(file.url) != file.url
        for file in files
    }
    for file in sorted(files, key=lambda file: (is_link[file.url], file.url)):
        partitions = "/".join(part for part in file.url.split("/")[:-1] if "=" in part)
        chosen.setdefault((file.place or file.url, partitions), file)
    return sorted(chosen.values(), key=lambda file: file.url)


def reaches(url: str, folder: str) -> bool:
    """Tell whether a glob could name a file below a folder; both as `normal` spells them."""
    base, pattern = _split(url)
    inside, start = folder.split("/"), base.split("/")
    if inside[: len(start)] != start:
        return start[: len(inside)] == inside
    return _may_hold(inside[len(start) :], pattern)


def is_glob(url: str) -> bool:
    """Tell whether a URL holds a character that could stand for others."""
    return any(char in url for char in _MAGIC)


def _split(url: str) -> tuple[str, list[str]]:
    """The folder in front of the first part with a wildcard, and the parts from there on."""
    place = min((url.find(char) for char in _MAGIC if char in url), default=-1)
    if place < 0:
        return url, []
    end = url.rfind("/", 0, place)
    return url[:end] or "/", url[end + 1 :].split("/")


def _exists(url: str) -> bool:
    filesystem, path = connect(url)
    if scheme(url) == LOCAL:
        return os.path.lexists(path)
    try:
        retry(lambda: filesystem.info(path), url)
    except FileNotFoundError:
        return False
    return True


def _fits(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Tell whether the parts of a path match those of a pattern."""
    if not pattern:
        return not names
    if pattern[0] == _ANY_DEPTH:
        if len(pattern) == 1:
            return bool(names)
        return any(_fits(names[skip:], pattern[1:]) for skip in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], pattern[0]) and _fits(names[1:], pattern[1:])


def _may_hold(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Tell whether something below a folder could match a pattern."""
    if not names or not pattern or pattern[0] == _ANY_DEPTH:
        return bool(pattern)
    return fnmatchcase(names[0], pattern[0]) and _may_hold(names[1:], pattern[1:])


def _is_hidden(names: Sequence[str], pattern: Sequence[str], *, is_folder: bool) -> bool:
    """Tell whether the last part of a path is to be left out."""
    name = names[-1]
    if is_folder and name.startswith("_") and "=" in name:
        return False
    # What a glob spells out is to be listed.
    part = pattern[len(names) - 1] if len(names) <= len(pattern) else ""
    spelt = _ANY_DEPTH not in pattern[: len(names)] and part.startswith(name[:1])
    return name.startswith(("_", ".")) and not spelt


def _local_files(base: str, pattern: Sequence[str]) -> Iterator[FileInfo]:
    path = local_path(base)
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        # A link in a circle, for one, or a folder above that may not be searched.
        raise _not_looked_at(path, error) from error
    if stat.S_ISDIR(status.st_mode):
        yield from _below(path, [], pattern)
    elif not pattern:
        yield _local_file(path, status)


def _below(folder: str, names: list[str], pattern: Sequence[str]) -> Iterator[FileInfo]:
    try:
        with os.scandir(folder) as entries:
            inside = list(entries)
    except FileNotFoundError:
        return  # removed since the folder around it was listed
    except OSError as error:
        raise StoreError(
            f"{redact(folder)}: cannot be listed ({error.strerror}), so its files would be "
            "missing; give this user the right to, or name other folders"
        ) from error
    for entry in inside:
        here = [*names, entry.name]
        try:
            is_folder = entry.is_dir(follow_symlinks=False)
        except OSError as error:
            raise _not_looked_at(entry.path, error) from error
        if _is_hidden(here, pattern, is_folder=is_folder):
            continue
        if is_folder:
            if not pattern or _may_hold(here, pattern):
                yield from _below(entry.path, here, pattern)
        elif not pattern or _fits(here, pattern):
            yield from _entry_file(entry)


def _entry_file(entry: os.DirEntry[str]) -> Iterator[FileInfo]:
    try:
        status = entry.stat()
    except FileNotFoundError as error:
        if not entry.is_symlink():
            return  # removed since the folder was listed
        raise FileNotFoundError(f"{redact(entry.path)}: {_BAD_LINK}") from error
    except OSError as error:
        if entry.is_symlink() and not isinstance(error, PermissionError):
            raise FileNotFoundError(f"{redact(entry.path)}: {_BAD_LINK}") from error
        raise _not_looked_at(entry.path, error) from error
    if stat.S_ISDIR(status.st_mode):
        raise FileNotFoundError(f"{redact(entry.path)}: {_BAD_LINK}")
    yield _local_file(entry.path, status)


def _local_file(path: str, status: os.stat_result) -> FileInfo:
    if not stat.S_ISREG(status.st_mode):
        raise InputError(
            f"{redact(path)}: no file but a pipe, socket or device, and inputs are read more than "
            "once; write it into a file first"
        )
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{redact(os.fsencode(path).decode(errors='backslashreplace'))}: the name is not valid "
            "UTF-8; rename the file or its folder"
        ) from error
    return FileInfo(
        path,
        status.st_size,
        local_identity(status),
        modified_s=status.st_mtime,
        # Size and time too: some network mounts give several files one number.
        place=f"{status.st_dev}-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}",
    )


def _not_looked_at(path: str, error: OSError) -> StoreError:
    return StoreError(
        f"{redact(path)}: cannot be looked at ({error.strerror}); give this user the right to, or "
        "leave it out"
    )


def _remote_files(base: str, pattern: Sequence[str]) -> Iterator[FileInfo]:
    filesystem, path = connect(base)
    objects: Iterable[tuple[str, Info]] = ()
    if pattern and _ANY_DEPTH not in pattern:
        objects = _matching(filesystem, path, base, pattern)
    else:
        # Object stores list all keys of a prefix at once, and what they answer is not swallowed
        # there, as it is in fsspec's walk from folder to folder.
        with suppress(FileNotFoundError):
            below = retry(lambda: filesystem.find(path, detail=True), base)
            if not isinstance(below, dict):  # adlfs, of a single file
                below = {name: retry(partial(filesystem.info, name), base) for name in below}
            objects = below.items()
    for name, info in objects:
        relative = name[len(path) :].strip("/")
        if name.endswith("/") or info["type"] != "file":
            continue
        names = relative.split("/") if relative else []
        if pattern and not _fits(names, pattern):
            continue
        ends = range(1, len(names) + 1)
        if any(_is_hidden(names[:end], pattern, is_folder=end < len(names)) for end in ends):
            continue
        yield describe(filesystem, name, join(base, relative) if relative else base, info)


def _matching(
    filesystem: Any,  # noqa: ANN401
    path: str,
    url: str,
    pattern: Sequence[str],
) -> Iterator[tuple[str, Info]]:
    """Files that match a pattern without ``**``, level by level."""
    try:
        entries = retry(lambda: filesystem.ls(path, detail=True), url)
    except FileNotFoundError:
        return
    for info in entries:
        name = info["name"].rstrip("/") if info["type"] == "directory" else info["name"]
        if name == path.rstrip("/") or not fnmatchcase(name.rsplit("/", 1)[-1], pattern[0]):
            continue
        if info["type"] != "directory" and len(pattern) == 1:
            yield name, info
        elif info["type"] == "directory" and len(pattern) > 1:
            yield from _matching(filesystem, name, url, pattern[1:])
