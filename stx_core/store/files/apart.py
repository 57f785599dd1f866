"""Whether two paths lead into each other: a job must not read what it writes."""

import os
from collections.abc import Iterable

from stx_core.errors import SpecError
from stx_core.store.files.filesystem import file_info
from stx_core.store.files.listing import is_glob, reaches
from stx_core.store.files.urls import LOCAL, local_path, normal, redact, scheme

# What stx writes into an output: a single file that lies beside these is safe.
_OURS = ("data", "quarantine", "_stx")

_FAMILIES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}


def refuse_overlap(output: str, inputs: Iterable[str], key: str = "output.path") -> None:
    """Refuse an output in an input folder, an input folder in the output, and one for both.

    Links, slashes and spellings of schemes do not hide it. A glob or a single file overlaps only
    where stx itself writes.

    Args:
        output: the folder that is written.
        inputs: files, folders and globs that are read.
        key: of the output in the spec, for the message.

    Raises:
        SpecError: names both.
    """
    for given in inputs:
        if _overlap(given, output):
            raise SpecError(
                f"{key}: {redact(output)} and the input {redact(given)} overlap, so the job would "
                "read what it writes; choose a folder beside it"
            )


def _overlap(given: str, output: str) -> bool:
    if (scheme(given) == LOCAL) != (scheme(output) == LOCAL):
        return False
    one, other = _place(given), _place(output)
    if is_glob(given) and not _is_there(given):
        return any(reaches(one, f"{other}/{folder}") for folder in _OURS)
    if not (_holds(one, other) or _holds(other, one) or _is_same_folder(given, output)):
        return False
    return not _is_file(given) or any(_holds(f"{other}/{folder}", one) for folder in _OURS)


def _holds(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _spelling(url: str) -> str:
    """One spelling of a URL; case and doubled slashes are what stores may not tell apart."""
    url = normal(url)
    if scheme(url) == LOCAL:
        return url
    kind = scheme(url)
    bucket, *keys = (part for part in url.partition("://")[2].split("/") if part)
    if "@" in bucket:  # abfs://container@account.host
        bucket = bucket.partition("@")[0]
    return "/".join([f"{_FAMILIES.get(kind, kind)}://{bucket}", *keys])


def _place(url: str) -> str:
    """The same for all names of a place, which need not exist."""
    if scheme(url) != LOCAL:
        return _spelling(url)
    path = local_path(url)
    if not is_glob(path) or os.path.lexists(path):
        return os.path.realpath(path)
    parts = path.split("/")
    first = next(i for i, part in enumerate(parts) if is_glob(part))
    return "/".join([os.path.realpath("/".join(parts[:first]) or "/").rstrip("/"), *parts[first:]])


def _is_there(url: str) -> bool:
    return scheme(url) == LOCAL and os.path.lexists(local_path(url))


def _is_file(url: str) -> bool:
    try:
        file_info(url)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return False
    return True


def _is_same_folder(given: str, output: str) -> bool:
    """Whether one folder is the other or holds it, on disks that do not tell case apart."""
    if scheme(given) != LOCAL:
        return False
    (one, above_one), (other, above_other) = _folders(given), _folders(output)
    return one in above_other or other in above_one


def _folders(url: str) -> tuple[object, set[object]]:
    """What a folder is to the system, itself if it is absent; and that of all that hold it."""
    path: str = os.path.realpath(local_path(url))
    number: object = path
    if os.path.exists(path):
        number = _number(path)
    above: set[object] = {number}
    while path != "/":
        path = os.path.dirname(path)
        if os.path.exists(path):
            above.add(_number(path))
    return number, above


def _number(path: str) -> tuple[int, int]:
    told = os.stat(path)
    return told.st_dev, told.st_ino
