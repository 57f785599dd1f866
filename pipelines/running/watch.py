"""Waiting for Ray: give up when nothing moves, raise what a worker raised without its wrappings."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from stx_core.errors import StoreError, StxError

# How often to look whether something moves.
_WATCH_S = 1.0

Item = TypeVar("Item")


def watched(
    items: Iterator[Item],
    limit_s: float,
    idle_s: Callable[[], float],
    what: Callable[[], str],
    look: Callable[[], None] = lambda: None,
) -> Iterator[Item]:
    """Pass items through, and give up when neither they nor anything else moves.

    Ray can wait for ever for an actor that is gone (ray issues 60517, 62746), so another thread
    waits for Ray.

    Args:
        items: taken in that thread.
        limit_s: without an item for so long, `idle_s` is asked.
        idle_s: seconds since something moved.
        what: is in flight, for the error.
        look: called about once a second, between items.

    Raises:
        StoreError: nothing moved for `limit_s`.
    """
    passed: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(maxsize=64)

    def take() -> None:
        try:
            for item in items:
                passed.put((item, None))
            passed.put((None, None))
        except BaseException as error:
            passed.put((None, error))

    threading.Thread(target=take, daemon=True).start()
    last = looked = time.monotonic()
    while True:
        if time.monotonic() - looked >= _WATCH_S:
            look()
            looked = time.monotonic()
        try:
            item, error = passed.get(timeout=_WATCH_S)
        except queue.Empty:
            if time.monotonic() - last > limit_s and idle_s() > limit_s:
                raise StoreError(
                    f"nothing moved for {limit_s:.0f} s, in flight: {what()}; see whether all "
                    "nodes are up, and run again: finished units are kept"
                ) from None
            continue
        if error is not None:
            raise error
        if item is None:
            return
        last = time.monotonic()
        yield item


# Ray Data writes how it may be set to try again behind the message of whatever a function raises.
_ADVICE = "\nFailed to apply UDF transform"


@contextmanager
def original_errors(in_flight: Callable[[], str]) -> Iterator[None]:
    """Raise the error that a worker raised, not the layers that Ray puts around it.

    Raises:
        StoreError: for what happened to Ray itself.
    """
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None:
            # An error of the system, not Ray's copy of one, which has lost its number; and one
            # of ours, not Ray's copy of it, whose text is a traceback.
            is_system = isinstance(cause, OSError) and cause.errno is not None
            is_copy = isinstance(cause, ray.exceptions.RayError)
            if isinstance(cause, StxError) and not is_copy:
                cause.args = (str(cause).partition(_ADVICE)[0],)
                raise cause from None
            if is_system:
                raise cause from None
            cause = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(error, ray.exceptions.OutOfDiskError):
            raise StoreError(
                "the disk under Ray's temporary folder is full: free some space there, or start "
                "Ray with another --temp-dir, and run again: finished units are kept"
            ) from None
        if isinstance(error, ray.exceptions.RayTaskError):
            raise
        # Ray tells from outside to inside: the cause comes last.
        last = str(error).strip().splitlines()[-1].strip()
        raise StoreError(
            f"Ray gave up ({type(error).__name__}: {last}), in flight: {in_flight()}; run again: "
            "finished units are kept"
        ) from None
