"""The one place that decides how a URL is reached; all retries of storage calls live here."""

import functools
import io
import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.fs
import tenacity

from stx_core import failpoints
from stx_core.errors import SpecError, StoreError
from stx_core.store.urls import LOCAL, join, local_path, normal, redact, scheme

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

READ_ATTEMPTS = 5
MAGIC = "*?["

# Errors that the same call would meet again.
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError)
# Clients raise some network errors outside the OSError tree; importing them all would be slow.
_CLIENTS = {"botocore", "aiobotocore", "aiohttp", "gcsfs", "azure", "requests", "httpx"}
# What stores call the version of an object: S3 and Azure, GCS, the Hugging Face hub.
_VERSION_KEYS = ("ETag", "etag", "blob_id")


@dataclass(frozen=True)
class FileInfo:
    """A file as it was when listed.

    Attributes:
        url: absolute, in the spelling of the place that was listed.
        size: bytes.
        identity: differs when the content may differ: the store's etag, else size and mtime.
    """

    url: str
    size: int
    identity: str


def connect(url: str) -> tuple[Any, str]:
    """Give the fsspec filesystem of a URL, with the path inside it.

    Raises:
        SpecError: the scheme is unknown, or needs a package that is not installed.
    """
    if "::" in url:
        raise SpecError(f"{redact(url)}: chained URLs are not supported; give the inner one")
    kind = scheme(url)
    if kind == LOCAL:
        return _client(LOCAL, "file://", os.getpid()), local_path(url)
    place = "/".join(url.split("/")[:3])
    filesystem = _client(kind, place, os.getpid())
    return filesystem, filesystem._strip_protocol(url)


@functools.cache
def _client(kind: str, place: str, process: int) -> Any:  # noqa: ANN401, ARG001
    # Clients do not survive a fork, hence the process in the key. Listings must be fresh:
    # other processes write, and the listing cache of s3fs never expires.
    try:
        filesystem, _ = fsspec.core.url_to_fs(
            place, skip_instance_cache=True, use_listings_cache=False
        )
    except (ValueError, ImportError) as error:
        raise SpecError(
            f"{redact(place)}: cannot open {kind}:// ({error}); install its client, "
            "for S3: pip install 'stx[s3]'"
        ) from error
    return filesystem


def arrow_filesystem(url: str) -> tuple[Any, str]:
    """Give the pyarrow filesystem of a URL, with the path inside it."""
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
    return retry(lambda: _describe(filesystem, path, url, filesystem.info(path)), url)


def _describe(filesystem: Any, path: str, url: str, info: dict[str, Any]) -> FileInfo:  # noqa: ANN401
    if info["type"] == "directory":
        raise IsADirectoryError(f"{redact(url)} is a folder, not a file")
    version = next((info[key] for key in _VERSION_KEYS if info.get(key)), None)
    if version is not None:
        identity = str(version).strip('"')
    elif scheme(url) == LOCAL:
        identity = f"{info['size']}-{os.stat(path).st_mtime_ns}"
    else:
        identity = f"{info['size']}-{int(filesystem.modified(path).timestamp() * 1e9)}"
    return FileInfo(url, int(info["size"]), identity)


def list_files(url: str) -> list[FileInfo]:
    """List a file, a folder with all below it, or a glob, sorted by URL.

    Below the folder that is listed, names that start with ``_`` or ``.`` are left out with all
    that is in them, and so are folder markers (keys that end in ``/``).

    Raises:
        FileNotFoundError: nothing is there, or the glob matches nothing.
    """
    url = normal(url)
    base = _glob_base(url)
    filesystem, base_path = connect(base)
    if base != url:
        pattern = connect(url)[1]
        found = retry(lambda: filesystem.glob(pattern, detail=True), url)
    else:
        found = retry(lambda: filesystem.find(base_path, detail=True), url)
    files = []
    for path, info in found.items():
        below = path[len(base_path) :].strip("/")
        if info["type"] == "file" and not path.endswith("/") and not _is_hidden(below):
            files.append(_describe(filesystem, path, join(base, below) if below else base, info))
    if not files and not retry(lambda: filesystem.isdir(base_path), url):
        raise FileNotFoundError(f"{redact(url)}: no such file or folder")
    if not files and base != url:
        raise FileNotFoundError(f"{redact(url)}: no file matches")
    return sorted(files, key=lambda file: file.url)


def _glob_base(url: str) -> str:
    magic = min((url.find(char) for char in MAGIC if char in url), default=len(url))
    return url if magic == len(url) else url[: url.rfind("/", 0, magic)]


def _is_hidden(path: str) -> bool:
    return any(part.startswith(("_", ".")) for part in path.split("/"))


def list_names(folder: str, start_after: str | None = None) -> list[str]:
    """Names of the files in a folder, sorted; of an absent folder, none.

    Hidden names (temporary files of killed writers) are left out.
    """
    filesystem, path = connect(folder)
    try:
        found = retry(lambda: filesystem.ls(path, detail=True), folder)
    except FileNotFoundError:
        return []
    names = [info["name"].rsplit("/", 1)[-1] for info in found if info["type"] == "file"]
    return sorted(
        name
        for name in names
        if name and not _is_hidden(name) and (start_after is None or name > start_after)
    )


def list_sizes(folder: str) -> dict[str, int]:
    """Sizes in bytes of all files below a folder, by path relative to it; none if absent."""
    filesystem, path = connect(folder)
    try:
        found = retry(lambda: filesystem.find(path, detail=True), folder)
    except FileNotFoundError:
        return {}
    below = {name[len(path) :].strip("/"): int(info["size"]) for name, info in found.items()}
    return {name: size for name, size in below.items() if name and not _is_hidden(name)}


def open_stream(url: str) -> IO[bytes]:
    """Open a file for reading bytes in order."""
    filesystem, path = connect(url)
    stream: IO[bytes] = retry(lambda: filesystem.open(path, "rb"), url)
    return stream


def open_file(url: str) -> Any:  # noqa: ANN401  (a pyarrow.NativeFile)
    """Open a file for random access by pyarrow."""
    if scheme(url) == LOCAL:
        return retry(lambda: pa.OSFile(local_path(url)), url)
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


def link_new(path: str, data: bytes) -> None:
    """Create a local file if it is absent, whole and durable, or raise FileExistsError.

    A temporary file is written, synced, then linked to its name: a crash in between leaves only
    the temporary file, where creating the name first would leave an empty winner for ever.
    """
    folder, name = os.path.split(path)
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError as error:
        # Of the folder, not of the file: must not look like a lost race.
        raise NotADirectoryError(f"{error.filename} is a file, a folder is needed") from error
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        with io.FileIO(temporary, "x") as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        failpoints.hit("link.before")
        os.link(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    folder_handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(folder_handle)
    finally:
        os.close(folder_handle)


def retry(call: Callable[[], Result], url: str) -> Result:
    """Make a storage call, again with jitter when a remote store fails for the moment.

    Raises:
        FileNotFoundError, FileExistsError, IsADirectoryError: as the store says.
        StoreError: it failed for good.
    """
    attempts = 1 if scheme(url) == LOCAL else READ_ATTEMPTS
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(attempts),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=10),
        retry=tenacity.retry_if_exception(is_transient),
        before_sleep=lambda state: logger.info("%s: again after %s", redact(url), _cause(state)),
        reraise=True,
    )
    try:
        return retrying(call)
    except (FileNotFoundError, FileExistsError, IsADirectoryError, StoreError):
        raise
    except Exception as error:
        if isinstance(error, PermissionError) or is_transient(error):
            raise StoreError(redact(f"{url}: {_say(error)} (after {attempts} attempts)")) from error
        raise


def is_transient(error: BaseException) -> bool:
    """Whether a storage error may be gone at the next attempt."""
    if isinstance(error, (*_FINAL, StoreError)):
        return False
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in _CLIENTS


def _say(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _cause(state: tenacity.RetryCallState) -> str:
    error = state.outcome.exception() if state.outcome else None
    return redact(_say(error)) if error else "no answer"
