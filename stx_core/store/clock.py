"""Time as the commit protocol sees it: how long to wait. In one place, so that tests replace it.

No decision compares the clocks of two machines; what happened first is what the log says.
"""

import time


def monotonic() -> float:
    """Seconds that passed in this process, from some start."""
    return time.monotonic()


def now() -> float:
    """Seconds since 1970 as this machine sees it: for estimates that decide nothing."""
    return time.time()


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)
