"""The one place that decides how a URL is reached.

The control path (listings, small objects, conditional writes, uploads) goes through fsspec, for all
stores. The data path (reading Parquet) goes through pyarrow's own clients for local files and S3,
and through fsspec for other stores.
"""

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import IO, Any, Literal, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.fs

from stx_core.errors import SpecError, StoreError
from stx_core.store.files import s3
from stx_core.store.files.local_disk import copy, find, link_new, names_in, replace
from stx_core.store.files.retries import retry
from stx_core.store.files.urls import (
    LOCAL,
    S3,
    credentials_in,
    has_credentials,
    join,
    local_path,
    normal,
    redact,
    scheme,
)

# A closed list: fsspec would also fetch http:// or github:// and unpack zip:// on a spec's word.
SCHEMES = (LOCAL, "memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf")

# What clients call the time of the last write; those of S3, local files, Azure, GCS, and memory.
_TIME_KEYS = ("LastModified", "mtime", "last_modified", "updated", "created")
# What stores call the version of an object: S3 and Azure, GCS, the Hugging Face hub.
_VERSION_KEYS = ("ETag", "etag", "blob_id")

_SIZES = pa.schema([("name", pa.string()), ("size", pa.int64())])
_LISTED_AT_ONCE = 4096

_LOCAL_IDENTITY = re.compile(r"\d+-\d+-\d+")

Result = TypeVar("Result")

Info = Mapping[str, Any]
"""Facts of a file as a client of fsspec gives them, each in words of its own, see `_TIME_KEYS`."""


@dataclass(frozen=True)
class FileInfo:
    """A file as it was when listed.

    Attributes:
        url: absolute, in the spelling of the place that was listed.
        size: bytes.
        identity: differs when the content may differ: the store's etag, else size and mtime; of a
            local file also the time of its inode's last change, which nobody can set back.
        modified_s: last write, seconds since 1970, by the clock of the store; None where it does
            not say.
        place: the same for all names of one file; empty where that is not known.
    """

    url: str
    size: int
    identity: str
    modified_s: float | None = None
    place: str = ""


@dataclass(frozen=True)
class Listed:
    """An object below a folder.

    Attributes:
        name: path relative to the folder.
        size: bytes.
        modified_s: last write, seconds since 1970, by the clock of the store.
    """

    name: str
    size: int
    modified_s: float


def connect(url: str) -> tuple[Any, str]:
    """Give the fsspec filesystem of a URL, with the path inside it.

    Raises:
        SpecError: the scheme is unknown, or needs a package that is not installed.
    """
    if "\0" in url:
        raise SpecError(f"{redact(url)}: holds a NUL character, which no path can; remove it")
    if "::" in url:
        raise SpecError(f"{redact(url)}: chained URLs are not supported; give the inner one")
    kind = scheme(url)
    if kind not in SCHEMES:
        raise SpecError(
            f"{redact(url)}: {kind}:// is not supported; use a path or {', '.join(SCHEMES)}"
        )
    refuse_credentials(url)
    if kind == LOCAL:
        return _client(LOCAL, "file://", None, os.getpid()), local_path(url)
    if kind in S3:
        filesystem = _client("s3", "", s3.current_options(), os.getpid())
    else:
        filesystem = _client(kind, "/".join(url.split("/")[:3]), None, os.getpid())
    return filesystem, filesystem._strip_protocol(f"{kind}://{url.partition('://')[2]}")


def refuse_credentials(url: str) -> None:
    """Check that no user name or password stands in a URL: no client is to see, or to quote, it.

    Raises:
        SpecError: one does.
    """
    if has_credentials(url):
        raise SpecError(credentials_in(url))


# Clients do not survive a fork, hence the process in the key.
@functools.cache
def _client(kind: str, place: str, options: s3.S3Options | None, process: int) -> Any:  # noqa: ANN401, ARG001
    if options is not None:
        return s3.control_client(options)
    # Listings must be fresh: other processes write.
    try:
        filesystem, _ = fsspec.core.url_to_fs(
            place, skip_instance_cache=True, use_listings_cache=False
        )
    except (ValueError, ImportError) as error:
        raise SpecError(
            f"{redact(place)}: cannot open {kind}:// ({error}); install its client: "
            "pip install 'stx[gs]', 'stx[az]' or 'stx[hf]'"
        ) from error
    return filesystem


def arrow_filesystem(url: str) -> tuple[Any, str]:
    """Give the pyarrow filesystem of a URL for reading, with the path inside it."""
    if scheme(url) in S3:
        refuse_credentials(url)
        path = url.split("://", 1)[1]
        return s3.data_client(s3.current_options(), path.split("/")[0]), path
    filesystem, path = connect(url)
    if scheme(url) == LOCAL:
        return pa.fs.LocalFileSystem(), path
    return pa.fs.PyFileSystem(pa.fs.FSSpecHandler(filesystem)), path


def file_info(url: str) -> FileInfo:
    """Look one file up, past every cache.

    Raises:
        FileNotFoundError: it is absent.
    """
    filesystem, path = connect(url)
    url = normal(url)
    return retry(lambda: describe(filesystem, path, url, filesystem.info(path)), url)


def describe(filesystem: Any, path: str, url: str, info: Info) -> FileInfo:  # noqa: ANN401
    """Facts of a client about a file, as ours.

    Raises:
        IsADirectoryError: it is a folder.
    """
    if info["type"] == "directory":
        raise IsADirectoryError(f"{redact(url)} is a folder, not a file")
    version = next((info[key] for key in _VERSION_KEYS if info.get(key)), None)
    if version is not None:
        identity = str(version).strip('"')
    elif scheme(url) == LOCAL:
        identity = local_identity(os.stat(path))
    else:
        identity = f"{info['size']}-{int(filesystem.modified(path).timestamp() * 1e9)}"
    has_time = any(info.get(key) is not None for key in _TIME_KEYS)
    modified = _modified_s(info) if has_time else None
    # s3:// and s3a://, say, are one place.
    place = f"{type(filesystem).__name__}:{path}"
    return FileInfo(url, int(info["size"]), identity, modified_s=modified, place=place)


def local_identity(status: os.stat_result) -> str:
    """The identity of a local file, see `FileInfo`."""
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"


def without_change_time(identity: str) -> str:
    """An identity as earlier versions of stx gave it: of a local file size and mtime."""
    return identity.rpartition("-")[0] if _LOCAL_IDENTITY.fullmatch(identity) else identity


def _is_hidden(path: str) -> bool:
    return any(part.startswith(("_", ".")) for part in path.split("/"))


def list_names(folder: str, kind: Literal["file", "directory"] = "file") -> list[str]:
    """Names of the files, or of the folders, in a folder, sorted; of an absent folder, none.

    Hidden names (temporary files of killed writers) are left out.
    """
    filesystem, path = connect(folder)
    try:
        if scheme(folder) == LOCAL and os.path.isdir(path):
            # fsspec's asks for the status of each file.
            names = retry(lambda: names_in(path, kind), folder)
            return [name for name in names if not _is_hidden(name)]
        entries = retry(lambda: filesystem.ls(path, detail=True), folder)
    except FileNotFoundError:
        return []
    # A "file" that ends in "/" is the marker of a folder; some clients end folders with it too.
    ending = "/" if kind == "directory" else ""
    names = [
        info["name"].removesuffix(ending).rsplit("/", 1)[-1]
        for info in entries
        if info["type"] == kind
    ]
    return sorted(name for name in names if name and not _is_hidden(name))


def list_sizes(folder: str) -> dict[str, int]:
    """Sizes in bytes of all files below a folder, by path relative to it; none if absent."""
    return _walk(
        folder,
        lambda files: {name: int(info["size"]) for name, info in files if not _is_hidden(name)},
    )


def size_table(root: str, folder: str) -> pa.Table:
    """`list_sizes` as columns, for folders of millions of files: name, relative to root, size."""

    def to_table(files: Iterator[tuple[str, Info]]) -> pa.Table:
        shown = ((name, info) for name, info in files if not _is_hidden(name))
        batches = []
        while batch := list(islice(shown, _LISTED_AT_ONCE)):
            # What is no UTF-8 is no file of ours.
            names = [f"{folder}/{name}".encode(errors="replace") for name, _ in batch]
            sizes = [int(info["size"]) for _, info in batch]
            batches.append(pa.record_batch([names, sizes], schema=_SIZES))
        return pa.Table.from_batches(batches, _SIZES)

    return _walk(join(root, folder), to_table)


def list_objects(folder: str) -> list[Listed]:
    """All objects below a folder, hidden ones too; none if absent."""
    return _walk(
        folder,
        lambda files: [Listed(name, int(info["size"]), _modified_s(info)) for name, info in files],
    )


def _walk(folder: str, collect: Callable[[Iterator[tuple[str, Info]]], Result]) -> Result:
    """Collect the paths below a folder, relative to it, with the facts that its store gives."""
    filesystem, path = connect(folder)
    if scheme(folder) == LOCAL:
        # Not fsspec's, which leaves out in silence what it cannot list.
        return retry(lambda: collect(find(path)), folder)
    try:
        if scheme(folder) in S3:
            # Not s3fs's, which has a kilobyte of each object in memory at once.
            objects: Iterable[tuple[str, Info]] = s3.find(filesystem, path, folder)
        else:
            objects = retry(lambda: filesystem.find(path, detail=True), folder).items()
        below = ((name[len(path) :].lstrip("/"), info) for name, info in objects)
        # A name that ends in "/" is the marker of a folder, which some tools leave there.
        return collect((name, info) for name, info in below if name and not name.endswith("/"))
    except FileNotFoundError:
        return collect(iter(()))


def modified_s(url: str) -> float:
    """When an object was last written, seconds since 1970, by the clock of its store.

    Raises:
        FileNotFoundError: it is absent.
    """
    filesystem, path = connect(url)
    return _modified_s(retry(lambda: filesystem.info(path), url))


def _modified_s(info: Info) -> float:
    time = next(info[key] for key in _TIME_KEYS if info.get(key) is not None)
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    return float(time.timestamp() if isinstance(time, datetime) else time)


def open_stream(url: str) -> IO[bytes]:
    """Open a file for reading bytes in order."""
    filesystem, path = connect(url)
    stream: IO[bytes] = retry(lambda: filesystem.open(path, "rb"), url)
    return stream


def open_file(url: str) -> Any:  # noqa: ANN401  (a pyarrow.NativeFile)
    """Open a file for random access by pyarrow."""
    if scheme(url) == LOCAL:
        return retry(lambda: pa.OSFile(local_path(url)), url)
    if scheme(url) in S3:
        filesystem, path = arrow_filesystem(url)
        return retry(lambda: filesystem.open_input_file(path), url)
    return pa.PythonFile(open_stream(url), "r")


def read_bytes(url: str) -> bytes:
    """Read a whole file, past every cache.

    Raises:
        FileNotFoundError: it is absent.
        StoreError: anything else, after the retries.
    """
    filesystem, path = connect(url)
    data: bytes = retry(lambda: filesystem.cat_file(path), url)
    return data


def write_new(url: str, data: bytes) -> None:
    """Write a file under a name that nobody else uses; all of it is visible, or nothing.

    Local parent folders are made; object stores have none.

    Raises:
        StoreError: it cannot be written.
    """
    filesystem, path = connect(url)
    try:
        if scheme(url) == LOCAL:
            retry(lambda: link_new(path, data), url)
        else:
            retry(lambda: filesystem.pipe_file(path, data), url)
    except (FileNotFoundError, FileExistsError) as error:
        raise StoreError(f"{redact(url)}: cannot be written ({error})") from error


def write_over(url: str, data: bytes) -> None:
    """Write a file, or put new content in its place; a reader sees the old or the new one.

    Raises:
        StoreError: it cannot be written.
    """
    filesystem, path = connect(url)
    try:
        if scheme(url) == LOCAL:
            retry(lambda: replace(path, data), url)
        else:
            retry(lambda: filesystem.pipe_file(path, data), url)
    except FileNotFoundError as error:
        raise StoreError(f"{redact(url)}: cannot be written ({error})") from error


def upload(path: str, url: str) -> None:
    """Copy a local file to a URL piece by piece; all of it is visible there, or nothing.

    Raises:
        StoreError: it cannot be written.
    """
    filesystem, target = connect(url)
    if scheme(url) != LOCAL:
        retry(lambda: filesystem.put_file(path, target), url)
        return
    retry(lambda: copy(path, target), url)


def download(url: str, path: str) -> None:
    """Copy a file to a local path piece by piece.

    Raises:
        FileNotFoundError: it is absent.
        StoreError: anything else, after the retries.
    """
    filesystem, source = connect(url)
    retry(lambda: filesystem.get_file(source, path), url)


def remove(url: str) -> None:
    """Delete an object; one that is gone already is no error.

    Raises:
        StoreError: it cannot be deleted.
    """
    filesystem, path = connect(url)
    with suppress(FileNotFoundError):
        retry(lambda: filesystem.rm_file(path), url)
