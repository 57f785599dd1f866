"""Paths that lead into each other: a job must not read what it writes."""

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
    source, target = _place(given), _place(output)
    is_there = scheme(given) == LOCAL and os.path.lexists(local_path(given))
    if is_glob(given) and not is_there:
        return any(reaches(source, f"{target}/{folder}") for folder in _OURS)
    # Disks may not tell case apart: the system says whether one folder is the other or holds it.
    is_inside = False
    if scheme(given) == LOCAL:
        (input_id, above_input), (output_id, above_output) = _folders(given), _folders(output)
        is_inside = input_id in above_output or output_id in above_input
    if not (_holds(source, target) or _holds(target, source) or is_inside):
        return False
    try:
        file_info(given)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return True
    # A file may lie in the output, but not where stx itself writes.
    return any(_holds(f"{target}/{folder}", source) for folder in _OURS)


def _holds(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _place(url: str) -> str:
    """The same for all names of a place, which need not exist."""
    if scheme(url) != LOCAL:
        # Case and doubled slashes are what stores may not tell apart.
        url = normal(url)
        kind = scheme(url)
        bucket, *keys = (part for part in url.partition("://")[2].split("/") if part)
        if "@" in bucket:  # abfs://container@account.host
            bucket = bucket.partition("@")[0]
        return "/".join([f"{_FAMILIES.get(kind, kind)}://{bucket}", *keys])
    path = local_path(url)
    if not is_glob(path) or os.path.lexists(path):
        return os.path.realpath(path)
    parts = path.split("/")
    first = next(i for i, part in enumerate(parts) if is_glob(part))
    return "/".join([os.path.realpath("/".join(parts[:first]) or "/").rstrip("/"), *parts[first:]])


def _folders(url: str) -> tuple[object, set[object]]:
    """Identity of a folder to the system, itself if it is absent; and those of all that hold it."""
    path: str = os.path.realpath(local_path(url))
    numbers: list[object] = [] if os.path.exists(path) else [path]
    while True:
        if os.path.exists(path):
            status = os.stat(path)
            numbers.append((status.st_dev, status.st_ino))
        if path == "/":
            return numbers[0], set(numbers)
        path = os.path.dirname(path)
