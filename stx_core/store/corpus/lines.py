"""Files of lines, decompressed by their names, and lines of limited length."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import IO, Any

from stx_core.errors import InputError
from stx_core.store.files.filesystem import open_stream
from stx_core.store.files.urls import redact

# Lines of text compress 3 to 50 times; gzip cannot do more than 1,032. A file that grows beyond
# both limits is taken for an attack.
_MAX_RATIO = 200
_MAX_SUSPECT_BYTES = 1 << 30

_PIECE_BYTES = 1 << 20


@contextmanager
def open_lines(url: str) -> Iterator[io.BufferedReader]:
    """Open a file of lines, decompressed by its name.

    Raises:
        InputError: the compressed data is damaged, cut short, or grows out of all proportion.
    """
    with closing(open_stream(url)) as raw:
        source: Any = _Inflating(raw, url) if url.lower().endswith(".gz") else raw
        # Clients of stores give streams whose readline() takes no limit.
        stream = io.BufferedReader(source, _PIECE_BYTES)
        try:
            yield stream
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(
                f"{redact(url)}: damaged gzip file ({error}); write it again, or if it is none "
                "take .gz off its name"
            ) from error


class _Inflating(gzip.GzipFile):
    """The decompressed bytes of a gzip file, with an eye on how many come out of how few."""

    def __init__(self, raw: IO[bytes], url: str) -> None:
        super().__init__(fileobj=raw, mode="rb")
        self._compressed, self._url = raw, url

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  (anything writable)
        n_read = super().readinto(buffer)
        plain, compressed = self.tell(), self._compressed.tell()
        if plain > max(_MAX_SUSPECT_BYTES, _MAX_RATIO * compressed):
            raise InputError(
                f"{redact(self._url)}: {compressed:,} bytes grew to more than {plain:,}, over "
                f"{_MAX_RATIO} times; leave the file out, or compress it in smaller parts"
            )
        return n_read


def read_line(stream: IO[bytes], max_bytes: int) -> tuple[bytes | None, int]:
    """The next line, and its size; None for a line of more than `max_bytes`, which is not kept.

    At the end of the stream the size is 0.
    """
    line = stream.readline(max_bytes + 1)
    if len(line) <= max_bytes or line.endswith(b"\n"):
        return line, len(line)
    size = len(line)
    while not line.endswith(b"\n") and (line := stream.readline(_PIECE_BYTES)):
        size += len(line)
    return None, size
