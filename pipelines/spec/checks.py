"""Checks of single values of specs: URLs, durations, ranges, code that is trusted.

Each gives the value, or what it stands for, and raises ValueError, which pydantic makes a line of.
"""

import os
import re
from pathlib import Path
from typing import Any, Protocol, TypeVar

from stx_core.store.files.create import CONDITIONAL
from stx_core.store.files.urls import credentials_in, holds_secret, scheme

_COMMIT = re.compile("[0-9a-f]{40}")

_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_LONGEST_S = 100 * 365 * 86400
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def filters_from_lists(value: Any) -> Any:  # noqa: ANN401
    """Conditions written as lists, as those that pydantic takes."""
    if not isinstance(value, (list, tuple)):
        return value
    names = ("column", "op", "value")
    return tuple(
        dict(zip(names, item, strict=False)) if isinstance(item, (list, tuple)) else item
        for item in value
    )


def without_secrets(url: str | None) -> str | None:
    """The URL itself; of a path, ``~`` is the home folder.

    Raises:
        ValueError: it holds credentials.
    """
    if url is not None and holds_secret(url):
        raise ValueError(credentials_in(url))
    return url and os.path.expanduser(url)


def committable(url: str) -> str:
    """As `without_secrets`.

    Raises:
        ValueError: it holds credentials, or its store cannot be committed to.
    """
    url = without_secrets(url) or ""
    if scheme(url) not in CONDITIONAL:
        raise ValueError(
            f"{scheme(url)}:// is for inputs only, it cannot create an object only if it is "
            "absent; write to a local folder, s3://, gs:// or az://"
        )
    return url


def duration_s(text: str) -> float:
    """Seconds of ``90s``, ``55m``, ``2h``, ``1d`` or a plain number of seconds.

    Raises:
        ValueError: something else.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError("not a duration; write it like 90s, 55m or 2h")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > _LONGEST_S:
        raise ValueError("is longer than a hundred years")
    return seconds


def as_duration(value: str | None) -> str | None:
    """The text itself.

    Raises:
        ValueError: it is no duration.
    """
    if value is not None:
        duration_s(value)
    return value


def number_or_range(value: Any) -> Any:  # noqa: ANN401
    """The number of actors, or least and most.

    Raises:
        ValueError: something else.
    """
    bounds = value if isinstance(value, (list, tuple)) else (value, value)
    if value is not None and (
        len(bounds) != 2
        or not all(isinstance(bound, int) for bound in bounds)
        or not 1 <= bounds[0] <= bounds[1]
    ):
        raise ValueError("write a number from 1, or [least, most]")
    return value


class _Trusted(Protocol):
    """Fields that `trusted_code_is_pinned` looks at."""

    trust_remote_code: bool
    model: str
    revision: str | None


Trusted = TypeVar("Trusted", bound=_Trusted)


def trusted_code_is_pinned(model: Trusted) -> Trusted:
    """The model itself.

    Raises:
        ValueError: code of the hub is to be run that may change.
    """
    if not model.trust_remote_code or Path(model.model).expanduser().is_dir():
        return model
    if not _COMMIT.fullmatch(model.revision or ""):
        raise ValueError(
            "trust_remote_code needs revision: the commit (40 hex digits) whose code you "
            "have read; branches and tags can move"
        )
    return model
