"""Stopping before the end: signals, and the processes that must not outlive the driver.

Nothing of this is needed for correctness, as every step survives `kill -9`. It is for operators:
the log says that the run rests, and the machine is free again within three seconds.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

from stx_core.errors import QualityRefused, Stopped, StxError
from stx_core.store import log

STOPPED_EXIT_CODE = 4

_EXIT_CODES = {signal.SIGTERM: STOPPED_EXIT_CODE, signal.SIGINT: 130}

# Of the three seconds: a store that does not answer must not keep the process alive.
_AT_STOP_S = 1.5

# What is done when this process is stopped, in this order.
_at_stop: list[Callable[[], None]] = []

_leaving = threading.Event()


@contextmanager
def at_stop(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` if a signal stops the process in the block; it has a second, and may not raise."""
    _at_stop.append(act)
    try:
        yield
    finally:
        _at_stop.remove(act)


@contextmanager
def pausing(root: str, claim: log.Claim) -> Iterator[None]:
    """Pause the run in the log when the block, or the process in it, is stopped before its end."""

    def pause() -> None:
        # Fenced, or the store is away: the run is as well off without the entry.
        with suppress(StxError, OSError):
            log.pause(root, claim.run, claim.epoch)

    with at_stop(pause):
        try:
            yield
        except (Stopped, QualityRefused, KeyboardInterrupt):
            pause()
            raise


def exit_on_signals() -> None:
    """Let SIGTERM and Ctrl-C end this process, its children and Ray, if it was started here."""
    for number in _EXIT_CODES:
        signal.signal(number, _on_signal)


@contextmanager
def kept_signal_handlers() -> Iterator[None]:
    """Put back the handlers that the block replaces: Ray installs one of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _EXIT_CODES}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is _on_signal:
                signal.signal(number, handler)


def leave(code: int) -> None:
    """End this process and all that it started, at once."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    children = psutil.Process().children(recursive=True)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(code)


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Leave from a thread: the main one may be anywhere, and cannot be trusted to come back."""
    if not _leaving.is_set():
        _leaving.set()
        threading.Thread(target=_act_and_leave, args=(signal.Signals(number),), daemon=True).start()


def _act_and_leave(number: signal.Signals) -> None:
    def act_all() -> None:
        for act in list(_at_stop):
            act()

    acting = threading.Thread(target=act_all, daemon=True)
    acting.start()
    acting.join(_AT_STOP_S)
    with suppress(OSError, ValueError):
        sys.stderr.write(
            f"stx: stopped by {number.name}; finished units are kept, run again to go on\n"
        )
    leave(_EXIT_CODES[number])
