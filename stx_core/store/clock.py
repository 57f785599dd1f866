"""Time as the commit protocol sees it: how long to wait. In one place, so that tests replace it.

No decision compares the clocks of two machines; what happened first is what the log says.
"""

import time

monotonic = time.monotonic
"""Seconds that passed in this process, from some start."""

now = time.time
"""Seconds since 1970 as this machine sees it: for estimates that decide nothing."""

sleep = time.sleep
"""Wait for some seconds."""
