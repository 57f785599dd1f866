"""End of a command's process: with its exit code, whatever its libraries still do."""

import atexit
import logging
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from stx_core.store.files.urls import redact


def end_after(command: Callable[[], None]) -> None:
    """Run a command, and end the process when the interpreter begins to take itself apart.

    Threads of Arrow, of clients of stores and of Ray may go on until then; one that frees an object
    of Python while its interpreter is being taken apart aborts the process (exit code 134) although
    the command has done its work. Whoever registered to be called at the exit is called before.
    """
    code = 1

    def end() -> None:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            # Nobody reads any more, or it is closed.
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code & 0xFF)

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Print an error that is none of ours, as Python does, without what is secret in it."""
        for part in traceback.format_exception(kind, error, trace):
            for line in part.rstrip("\n").split("\n"):
                print(redact(line), file=sys.stderr)

    atexit.register(end)
    sys.excepthook = show
    try:
        command()
        code = 0
    except SystemExit as ended:
        # As the interpreter: without a code it is 0, and 1 where there is a message instead.
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise
