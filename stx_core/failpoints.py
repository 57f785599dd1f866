"""Named places in the code where a test may hurt the process; without STX_FAILPOINTS, nothing.

The variable names a folder. A file in it, ``<name>@<number>=<action>``, arms a place: whoever
comes by takes the file with the lowest number (a rename, so exactly one process gets it) and does
what it says:

    pass         nothing: so that a later passage is the one that is hurt
    sleep:2.5    wait, in seconds
    fail:28      raise OSError with this errno
    SIGKILL      send a signal to the own process; any signal's name
"""

import os
import signal
import time

NAMES = (
    "plan.listed",
    "claim.before",
    "read.before",
    "encode.mid",
    "search.mid",
    "write.before",
    "link.before",
    "ledger.before",
    "ledger.after",
    "segment.after",
    "commit.before",
    "commit.after",
    "gc.after_fence",
    "gc.mid",
)

FOLDER = os.environ.get("STX_FAILPOINTS", "")


def _noop(name: str) -> None:
    """What `hit` is outside tests."""


def _armed(name: str) -> None:
    for token in sorted(os.listdir(FOLDER)):
        if token.startswith(f"{name}@") and _take(token):
            _do(token.partition("=")[2])
            return


def _take(token: str) -> bool:
    try:
        os.rename(os.path.join(FOLDER, token), os.path.join(FOLDER, f"used.{token}"))
    except FileNotFoundError:
        return False  # another process was faster
    return True


def _do(action: str) -> None:
    verb, _, value = action.partition(":")
    if verb == "pass":
        return
    if verb == "sleep":
        time.sleep(float(value))
    elif verb == "fail":
        raise OSError(int(value), os.strerror(int(value)))
    else:
        os.kill(os.getpid(), signal.Signals[verb])


hit = _armed if FOLDER else _noop
