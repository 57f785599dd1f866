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


def hit(name: str) -> None:
    """Do what a test armed for this place, if one did."""
    for token in sorted(os.listdir(FOLDER)) if FOLDER else ():
        if not token.startswith(f"{name}@"):
            continue
        try:
            os.rename(os.path.join(FOLDER, token), os.path.join(FOLDER, f"used.{token}"))
        except FileNotFoundError:
            continue  # another process was faster
        verb, _, value = token.partition("=")[2].partition(":")
        if verb == "sleep":
            time.sleep(float(value))
        elif verb == "fail":
            raise OSError(int(value), os.strerror(int(value)))
        elif verb != "pass":
            os.kill(os.getpid(), signal.Signals[verb])
        return
