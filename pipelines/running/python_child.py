"""Python children of this process: started on a module of ours, with a connection to it.

They start anew, unlike those of `multiprocessing`, which run the main script of their parent again:
a script that calls a job needs no ``if __name__ == "__main__":``.
"""

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from stx.pipelines.running.safe_path import child_environment

Result = TypeVar("Result")

_STDERR_CHARS = 200
_EXIT_WAIT_S = 5.0

# How long a thread of OpenMP that is done spins until the others are. Beside another process on its
# cores (Ray's own, a reader) the usual 300,000 take the time from those that it waits for: 2.4 s
# instead of 1.7 for what takes 0.9 alone, with either number (two cores, one of them shared).
_SPINS = "1000"


class ChildDied(Exception):  # noqa: N818  (what happened, not what is wrong)
    """A child ended without an answer."""


class PythonChild:
    """A process that runs a module as its main one, given the number of its end of a connection.

    Attributes:
        process: the process.
        connection: the end of this process.
        tail: the last line on its stderr, which is passed on.
    """

    def __init__(self, module: str) -> None:
        self.connection, child_end = Pipe()
        # The same modules as here, wherever a class that is sent is from.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(child_end.fileno())],
            env={"GOMP_SPINCOUNT": _SPINS} | child_environment(),
            pass_fds=[child_end.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # Ctrl-C in a terminal is for the driver: it ends the children once it has stopped.
            start_new_session=True,
        )
        child_end.close()
        self.tail = tail = deque[str](maxlen=1)
        stderr = self.process.stderr
        assert stderr is not None

        # Without `self`: an object that nobody uses any more closes its connection.
        def pass_on() -> None:
            with stderr:
                for line in stderr:
                    sys.stderr.write(line)
                    if line.strip():
                        tail.append(line.strip()[:_STDERR_CHARS])

        self._reader = threading.Thread(target=pass_on, daemon=True)
        self._reader.start()

    def end(self) -> None:
        """Kill the process, and wait until it is gone."""
        self.connection.close()
        self.process.kill()
        self.process.wait()
        self._reader.join(_EXIT_WAIT_S)

    def exit_code(self) -> int | None:
        """Its exit code once it has closed the connection; None if it then goes on."""
        try:
            code = self.process.wait(_EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(_EXIT_WAIT_S)
        return code


def call(function: Callable[..., Result], *arguments: Any, timeout_s: float | None) -> Result:  # noqa: ANN401
    """Call an importable function in a child that lives as long as the call.

    Raises:
        ChildDied: the child ended.
        TimeoutError: there is no answer in time.
        Exception: whatever the function raises.
    """
    child = PythonChild("stx.pipelines.running.call_process")
    try:
        child.connection.send((function, arguments))
        if not child.connection.poll(timeout_s):
            raise TimeoutError(f"no answer within {timeout_s:g} s")
        is_error, value = child.connection.recv()
    except (EOFError, ConnectionError) as error:
        raise ChildDied(f"exit code {child.exit_code()}") from error
    finally:
        child.end()
    if is_error:
        raise value
    result: Result = value
    return result


def exit_with_parent(connection: Connection, take: Callable[[bytes], object]) -> None:
    """Hand on what arrives, from a thread; end this process, busy or not, with the connection."""

    def receive() -> None:
        try:
            while True:
                take(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
