"""The one place through which a command writes: no name or text of others steers the terminal."""

import io
import re
import sys
from collections.abc import Iterator
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


class Filtered(io.TextIOBase):
    """A text stream that writes what is `printable` to another one.

    Attributes:
        stream: the other one, for what draws on purpose.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text, and what the other stream cannot encode as escapes."""
        encoding = self.stream.encoding or "utf-8"
        self.stream.write(printable(text).encode(encoding, "backslashreplace").decode(encoding))
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
