"""What this process is at: its phase, and how much of the units in flight is done.

Those who work say it here, whether anybody looks or not; those who show a run ask.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class InFlight(NamedTuple):
    """Work on units that are not finished.

    Attributes:
        rows: the share of each unit's tokens that is done, times its rows.
        tokens: that models read.
    """

    rows: float
    tokens: int


Listener = Callable[[float, int], None]
"""Takes the share of a unit that is done, 0 to 1, and the tokens that models read for it."""


def _nobody(share: float, tokens: int) -> None:
    """Listen to nothing."""


class _Activity:
    phases: list[str]
    in_flight: InFlight | None = None
    listener: Listener = staticmethod(_nobody)

    def __init__(self) -> None:
        self.phases = []


_activity = _Activity()


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Name what the block does, such as ``starting Ray``, for those who wait for it."""
    _activity.phases.append(name)
    try:
        yield
    finally:
        _activity.phases.remove(name)


def current_phase() -> str:
    """The innermost phase; empty outside of any."""
    return next(reversed(_activity.phases), "")


@contextmanager
def reporting_to(listener: Listener = _nobody) -> Iterator[None]:
    """Let a listener have what stages `report` in the block; by default nobody."""
    before, _activity.listener = _activity.listener, listener
    try:
        yield
    finally:
        _activity.listener = before


def report(share: float, tokens: int) -> None:
    """Say how much of its unit a stage has done; cheap enough for each batch."""
    _activity.listener(share, tokens)


def part_of_unit(number: int, n_models: int, n_before: int) -> Listener:
    """Takes what one of several models has done of a unit, and reports it as part of all.

    Args:
        number: of the model, from 0.
        n_models: that read the unit in turn.
        n_before: tokens that those before it read.
    """
    return lambda share, tokens: report((number + share) / n_models, n_before + tokens)


def set_in_flight(work: InFlight | None) -> None:
    """Note what is done of the units in flight; None where it is not known."""
    _activity.in_flight = work


def in_flight() -> InFlight | None:
    """What was noted last."""
    return _activity.in_flight
