"""Log lines of a command: to stderr, one line each, without secrets."""

import logging
import os
import sys
from typing import TextIO

from stx_core.store.files.urls import redact


def configure_logging() -> None:
    """Log lines of stx to stderr; those of libraries only when something is wrong."""
    handler = _Stderr()
    handler.setFormatter(_OneLine("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("stx_core").setLevel(logging.INFO)
    logging.getLogger("stx.pipelines").setLevel(logging.INFO)
    # Ray's core prints advice for its developers to the driver's stderr at level "error".
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


class _Stderr(logging.StreamHandler[TextIO]):
    """Asks for stderr each time: the live view stands in for it, and keeps below the log lines."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        pass


class _OneLine(logging.Formatter):
    """A message stays one line, whatever ids and paths it names; tracebacks keep theirs."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        return redact(super().formatMessage(record))
