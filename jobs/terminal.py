"""The one place through which a command writes: no name or text of others steers the terminal."""

import io
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO

from stx_core.store.files.urls import CONTROL, one_line

_ALLOWED = "\n\t"
# Lone surrogates stand for bytes of file names that are no text, and cannot be encoded.
_STEERING = re.compile(f"{CONTROL.pattern}|[\\ud800-\\udfff]")


def say(line: str = "") -> None:
    """Print a line to stdout; whatever it names, it stays one."""
    print(one_line(line), flush=True)


def printable(text: str) -> str:
    """A text with escapes in the place of all that could steer a terminal; lines stay lines."""

    def escaped(match: re.Match[str]) -> str:
        return match[0] if match[0] in _ALLOWED else match[0].encode("unicode_escape").decode()

    return _STEERING.sub(escaped, text)


class StatusLines:
    """Lines at the bottom of a terminal, drawn over until something else is written there."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stream: TextIO | None = None
        self._lines: Sequence[str] = ()
        self._at_line_start = True

    def draw(self, stream: TextIO, lines: Sequence[str]) -> None:
        """Draw lines in the place of those before; not within a line that somebody writes.

        Args:
            stream: of the terminal.
            lines: they may have colours, and are cut at the terminal's width.
        """
        with self._lock:
            if not self._at_line_start or lines == self._lines:
                return
            up = f"\x1b[{len(self._lines) - 1}A" if len(self._lines) > 1 else ""
            body = "\n".join(f"{line}\x1b[K" for line in lines)
            # Without line breaks of the terminal's own: it knows how wide a letter is.
            stream.write(f"\x1b[?7l\r{up}{body}\x1b[J\x1b[?7h")
            stream.flush()
            self._stream, self._lines = stream, lines

    def write(self, stream: TextIO, text: str) -> None:
        """Write a text to any stream; where the lines are on a terminal too, they make room."""
        with self._lock:
            if stream.isatty():
                self.clear()
                self._at_line_start = text.endswith("\n") if text else self._at_line_start
            stream.write(text)

    def clear(self) -> None:
        """Take the lines off the terminal."""
        with self._lock:
            if self._stream is not None and self._lines:
                up = f"\x1b[{len(self._lines) - 1}A" if len(self._lines) > 1 else ""
                self._stream.write(f"\r{up}\x1b[J")
                self._stream.flush()
            self._lines = ()


STATUS = StatusLines()
"""Of this process."""

_DUMB = ("dumb", "unknown")


def can_draw(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal that can draw over what it has drawn."""
    return stream.isatty() and os.environ.get("TERM", "dumb").lower() not in _DUMB


class Filtered(io.TextIOBase):
    """A text stream that writes what is `printable` to another one, above the `STATUS`.

    Attributes:
        stream: the other one, for what draws on purpose.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text, and what the other stream cannot encode as escapes."""
        encoding = self.stream.encoding or "utf-8"
        shown = printable(text).encode(encoding, "backslashreplace").decode(encoding)
        STATUS.write(self.stream, shown)
        return len(text)

    def flush(self) -> None:
        """Flush the other stream."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Tell whether the other stream is a terminal."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """File descriptor of the other stream."""
        return self.stream.fileno()

    def writable(self) -> bool:
        """It is."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the other stream."""
        return self.stream.encoding


@contextmanager
def filtered() -> Iterator[None]:
    """Filter what is written to stdout and stderr in the block, whoever writes it."""
    with ExitStack() as stack:
        if not isinstance(sys.stdout, Filtered):
            stack.enter_context(redirect_stdout(Filtered(sys.stdout)))
        if not isinstance(sys.stderr, Filtered):
            stack.enter_context(redirect_stderr(Filtered(sys.stderr)))
        yield
