"""Names that installed distributions add to stx by entry points; their code is imported when used.

A plug-in that fails to import, or takes a name that is in use, is an error for who asks for that
name, and for nobody else.
"""

import hashlib
import inspect
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pkgutil import resolve_name
from typing import Any, Generic, TypeVar, cast

from stx_core.errors import InputError, SpecError, StxError

T = TypeVar("T")


@dataclass(frozen=True)
class Plugin:
    """An entry point.

    Attributes:
        value: ``module:name`` of what it adds.
        distribution: name and version of what brought it; of all, where several did.
    """

    value: str
    distribution: str


class Registry(Mapping[str, T], Generic[T]):
    """Names of one kind of thing: those of stx itself, then those of plug-ins, sorted.

    Listing names imports nothing. `registry[name]` imports what is meant, and raises SpecError
    where that fails, is of another type, or stx has that name too.

    Args:
        group: of entry points.
        what: it is that a name stands for, in words.
        table: of stx itself; a text is the ``module:name`` of the thing.
        expected: type of the things.
        reserved: further names that no plug-in may have.
    """

    def __init__(
        self,
        group: str,
        what: str,
        table: Mapping[str, T | str],
        *,
        expected: Any,  # noqa: ANN401  (a type, abstract ones too)
        reserved: Collection[str] = (),
    ) -> None:
        self.group, self.what, self.reserved = group, what, frozenset(reserved)
        self.table, self._expected = dict(table), expected

    @property
    def plugins(self) -> Mapping[str, Plugin]:
        """Entry points of the group by name; those whose name is taken too."""
        return _entry_points(tuple(sys.path)).get(self.group, {})

    def __iter__(self) -> Iterator[str]:
        yield from self.table
        yield from sorted(self.plugins.keys() - self.table.keys() - self.reserved)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in self.table or (name in self.plugins and name not in self.reserved)

    def __getitem__(self, name: str) -> T:
        plugin = self.plugins.get(name)
        if plugin is not None:
            return self._load(name, plugin)
        return self._own(name)

    def _own(self, name: str) -> T:
        value = self.table[name]
        return cast(T, resolve_name(value)) if isinstance(value, str) else value

    def own(self) -> dict[str, T]:
        """Things of stx itself by name."""
        return {name: self._own(name) for name in self.table}

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def named(self, name: str, where: str) -> T:
        """As ``registry[name]``; `where` begins the message.

        Raises:
            SpecError: there is no such name, either.
        """
        if name not in self and name not in self.plugins:
            raise SpecError(
                f"{where}: unknown; one of {', '.join(self)} (a plug-in's name is known where the "
                "plug-in is installed)"
            )
        return self[name]

    def usable(self) -> dict[str, T]:
        """Things by name; plug-ins that cannot be used are left out."""
        return {name: self[name] for name in self if self.problem(name) is None}

    def problem(self, name: str) -> str | None:
        """Why a plug-in's name cannot be used; None if it can."""
        try:
            self[name]
        except SpecError as error:
            return str(error)
        return None

    def with_origin(self, name: str) -> str:
        """The name; a plug-in's with its distribution."""
        plugin = self.plugins.get(name)
        return name if plugin is None else f"{name} ({plugin.distribution})"

    def _load(self, name: str, plugin: Plugin) -> T:
        where = f"{self.what} {name!r} of {plugin.distribution}"
        if name in self.table or name in self.reserved:
            raise SpecError(
                f"{where}: stx itself has this name; rename the entry point, or uninstall it"
            )
        if "\n" in plugin.value:
            raise SpecError(f"{where}: both have this name; uninstall one of them")
        thing = load(plugin.value, where)
        if not isinstance(thing, self._expected):
            raise SpecError(
                f"{where}: {plugin.value} is a {type(thing).__name__}, not a "
                f"{self._expected.__name__}"
            )
        return cast(T, thing)


def load(place: str, where: str, advice: str = "mend or uninstall it") -> object:
    """Import ``module:name``.

    Args:
        place: as an entry point names it.
        where: begins the message.
        advice: ends it.

    Raises:
        SpecError: that fails, for whatever reason: it is not our code.
    """
    try:
        return resolve_name(place)
    except Exception as error:
        raise SpecError(
            f"{where}: {place} cannot be imported ({type(error).__name__}: {error}); {advice}"
        ) from error


def source_hash(thing: Any) -> str:  # noqa: ANN401
    """SHA-256 in hex of the source of the module that a function or class is defined in.

    What that module imports is not in it.

    Raises:
        SpecError: the source is not there.
    """
    try:
        module = inspect.getmodule(thing)
        source = inspect.getsource(module) if module else ""
    except (OSError, TypeError):
        source = ""
    if not source:
        raise SpecError(f"{thing!r}: the source of its module is needed to tell whether it changed")
    return hashlib.sha256(source.encode()).hexdigest()


@contextmanager
def foreign_code(where: str) -> Iterator[None]:
    """What code of others raises in the block is an InputError that begins with `where`.

    Errors of stx, and those of files, which may be tried again, stay what they are.
    """
    try:
        yield
    except (StxError, OSError):
        raise
    except Exception as error:
        raise InputError(f"{where}: {type(error).__name__}: {error}") from error


@lru_cache(maxsize=1)
def _entry_points(path: tuple[str, ...]) -> dict[str, dict[str, Plugin]]:  # noqa: ARG001
    """Plug-ins by group and name, of all that is installed on a path; 10 ms per 200 packages."""
    from importlib.metadata import entry_points

    groups: dict[str, dict[str, Plugin]] = {}
    installed = entry_points()
    ours = [group for group in installed.groups if group.startswith("stx.")]
    for point in (point for group in ours for point in installed.select(group=group)):
        dist = point.dist
        origin = "an unknown distribution" if dist is None else f"{dist.name} {dist.version}"
        same = groups.setdefault(point.group, {})
        before = same.get(point.name)
        if before is None:
            same[point.name] = Plugin(point.value, origin)
        else:
            both = f"{before.distribution} and {origin}"
            same[point.name] = Plugin(f"{before.value}\n{point.value}", both)
    return groups
