"""Units in flight: they pass the gate on their way to the first stage, and once more when done.

It closes in time before a deadline, and knows the units of a stream that does not move any more.
"""

import time
from collections.abc import Callable

from stx.pipelines.running.activity import InFlight

# On top of the longest unit so far: the next one may be longer.
_DEADLINE_SLACK = 1.25


class Gate:
    """Lets units through until the deadline is too near for one more.

    Args:
        seconds: until the deadline; None: never closes.
        clock: monotonic seconds.
        patience_s: how much longer than between units it may take until the first one starts.
    """

    def __init__(
        self,
        seconds: float | None,
        clock: Callable[[], float] = time.monotonic,
        patience_s: float = 0.0,
    ) -> None:
        self._clock = clock
        self._patience_s = patience_s
        self._deadline = None if seconds is None else clock() + seconds
        self._since: dict[str, float] = {}
        self._attempts: dict[str, int] = {}
        self._done: dict[str, InFlight] = {}
        self._longest = 0.0
        self._moved = clock()

    def is_open(self) -> bool:
        """True if a unit that starts now is likely to finish before the deadline."""
        if self._deadline is None:
            return True
        return self._clock() + self._longest * _DEADLINE_SLACK < self._deadline

    def admit(self, unit: str) -> int:
        """Note that a unit starts: the number of this attempt; 0 if no time is left for it."""
        if not self.is_open():
            return 0
        self._patience_s = 0.0
        self._since[unit] = self._moved = self._clock()
        self._attempts[unit] = self._attempts.get(unit, 0) + 1
        return self._attempts[unit]

    def finish(self, unit: str) -> None:
        """Note that a unit is done."""
        self._moved = self._clock()
        # A unit may finish twice: Ray repeats what a lost node had done.
        started = self._since.pop(unit, self._moved)
        self._attempts.pop(unit, None)
        self._done.pop(unit, None)
        self._longest = max(self._longest, self._moved - started)

    def beat(self) -> None:
        """Note that some stage is at work."""
        self._moved = self._clock()

    def note(self, unit: str, work: InFlight) -> None:
        """Note how much of a unit that has started is done."""
        self.beat()
        if unit in self._since:
            self._done[unit] = work

    def work(self) -> InFlight | None:
        """What is done of all units in flight; None where no stage has begun with one."""
        if not self._done:
            return None
        rows, tokens = zip(*self._done.values(), strict=True)
        return InFlight(sum(rows), sum(tokens))

    def idle_s(self) -> float:
        """Seconds since anything moved, less the patience before the first unit."""
        return self._clock() - self._moved - self._patience_s

    def in_flight(self) -> list[str]:
        """Units that have started and are not done."""
        return list(self._since)
