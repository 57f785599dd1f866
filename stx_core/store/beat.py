"""Signs of life of a start: so that nobody takes over a run that somebody works on.

A beat is a hint and never a lock: what a start may publish is decided by its epoch in the log. It
only spares a newcomer from doing the work of a living start once more.
"""

import json
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from stx_core.errors import Fenced, RunActive, StoreError
from stx_core.store import clock
from stx_core.store.files.filesystem import read_bytes, write_over
from stx_core.store.files.urls import join, redact
from stx_core.store.log_state import Process
from stx_core.store.sealed import decode

logger = logging.getLogger(__name__)

INTERVAL_S = 10.0
# A newcomer watches a beat for this long, on its own clock, before it takes a run over.
TTL_S = 60.0
# A holder stops well before a newcomer would have waited long enough.
_SILENT_TOO_LONG_S = TTL_S / 2
_POLL_S = 2.0
# How often the holder looks at the log, in beats.
_LOOK_EVERY = 3
# A clean stop has three seconds; a store that hangs must not use them up.
_JOIN_S = 1.0


@dataclass(frozen=True)
class Beat:
    """Content of the beat file of one start.

    Attributes:
        counter: number of the beat.
        ended: the start has stopped, and the run waits for the next one.
    """

    counter: int
    ended: bool


def read_beat(root: str, run: str, epoch: int) -> Beat | None:
    """The last beat of a start; None if there is none (yet), or if it is of another start."""
    try:
        body = decode(read_bytes(beat_url(root, run)))
    except FileNotFoundError:
        return None
    if body.get("epoch") != epoch:
        return None
    return Beat(body["counter"], body["ended"])


def wait_until_silent(root: str, run: str, epoch: int, writer: Process) -> None:
    """Return once nobody works on a run; at once where that can be proved.

    Args:
        root: the dataset.
        run: id of the run.
        epoch: of the start that holds it.
        writer: `this_process` of that start.

    Raises:
        RunActive: its beat changed.
    """
    if is_gone(writer):
        return
    first = read_beat(root, run, epoch)
    if first is not None and first.ended:
        return
    logger.info("run %s was left open; watching for %.0f s whether it is at work", run, TTL_S)
    give_up = clock.monotonic() + TTL_S
    while clock.monotonic() < give_up:
        clock.sleep(_POLL_S)
        seen = read_beat(root, run, epoch)
        if seen is not None and seen.ended:
            return
        if seen != first:
            raise RunActive(f"{redact(root)}: another start is at work on run {run}")


class Heartbeat:
    """Beats from a thread of its own while the block runs.

    Args:
        root: the dataset.
        run: id of the run.
        epoch: of this start.
        look: looks at the log; raises `Fenced` when a newer start took the run over.
    """

    def __init__(self, root: str, run: str, epoch: int, look: Callable[[], None]) -> None:
        self._root, self._run, self._epoch, self._look = root, run, epoch, look
        self._counter = 0
        self._last_s = clock.monotonic()
        self._fenced: Fenced | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="heartbeat", daemon=True)

    def beat(self) -> None:
        """Write one beat; every third time look at the log first.

        Raises:
            Fenced: a newer start took the run over.
            StoreError: the store did not take it.
        """
        if self._counter % _LOOK_EVERY == 0:
            self._look()
        self._write(ended=False)
        self._last_s = clock.monotonic()

    def check(self) -> None:
        """Ask between two units whether this start may go on.

        Raises:
            Fenced: a newer start took the run over.
            StoreError: the beat could not be written for so long that one may.
        """
        if self._fenced is not None:
            raise self._fenced
        silent_s = clock.monotonic() - self._last_s
        if silent_s <= _SILENT_TOO_LONG_S:
            return
        # Perhaps this process was only stopped for a while: if nobody took over, it goes on.
        try:
            self._look()
            self.beat()
        except Fenced:
            raise
        except StoreError as error:
            raise StoreError(
                f"{redact(self._root)}: no sign of life could be written for {silent_s:.0f} s "
                f"({error}); finished units are kept, run again"
            ) from error

    def __enter__(self) -> "Heartbeat":
        self.beat()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(_JOIN_S)
        if error is None or isinstance(error, Fenced) or self._thread.is_alive():
            return
        try:
            # Says to the next start that it need not wait.
            self._write(ended=True)
        except StoreError as problem:
            logger.info("the next start of run %s will have to wait: %s", self._run, problem)

    def _loop(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            try:
                self.beat()
            except Fenced as error:
                self._fenced = error
                return
            except StoreError as error:
                logger.warning("heartbeat: %s", error)

    def _write(self, *, ended: bool) -> None:
        body = {"epoch": self._epoch, "counter": self._counter, "ended": ended}
        write_over(beat_url(self._root, self._run), json.dumps(body).encode())
        self._counter += 1


def this_process() -> Process:
    """Facts that tell this process from every other that may look at the same store.

    Empty where the system does not say (Linux does): then nobody can prove that it has ended.
    """
    try:
        return {
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "pid_namespace": os.readlink("/proc/self/ns/pid"),
            "pid": os.getpid(),
            "started": _start_ticks(os.getpid()),
        }
    except OSError:
        return {}


def is_gone(writer: Process) -> bool:
    """Tell whether a process has provably ended: it ran on this machine and is not there now."""
    here = this_process()
    if not writer or any(writer.get(key) != here.get(key) for key in ("boot", "pid_namespace")):
        return False
    try:
        return bool(_start_ticks(writer["pid"]) != writer["started"])
    except OSError:
        return True


def _start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since the machine did.

    Raises:
        OSError: there is no such process, or it has ended and waits for its parent.
    """
    stat = Path(f"/proc/{pid}/stat").read_text()
    # The second field is the program's name, in parentheses; it may hold anything.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(f"process {pid} has ended")
    return int(fields[19])


def beat_url(root: str, run: str) -> str:
    """URL of the beat of a run."""
    return join(root, "_stx", "runs", run, "beat.json")
