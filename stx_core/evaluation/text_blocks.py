"""Files of lines, parsed block by block: as fast as the parser, and exact about a bad line."""

import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from stx_core.errors import InputError
from stx_core.store.corpus.foreign import refuse_foreign, refuse_old_line_ends
from stx_core.store.corpus.lines import open_lines
from stx_core.store.files.urls import one_line, redact

BLOCK_BYTES = 8 << 20
# Longer than a line of a thousand ids; a file without line ends is no file of lines.
_MAX_LINE_BYTES = 64 << 20
_SHOWN_CHARACTERS = 100
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Block:
    """Some whole lines of a file.

    Attributes:
        line: number of the first of them, from 1.
        data: the lines, with a newline between them.
    """

    line: int
    data: bytes


def read_blocks(url: str) -> Iterator[Block]:
    """Read a file of lines, decompressed if its name ends in ``.gz``.

    Raises:
        InputError: damaged compression, or a line of more than 64 MiB.
        FileNotFoundError: it is absent.
    """
    number, rest = 1, b""
    with open_lines(url) as stream:
        refuse_foreign(stream, url)
        while data := stream.read(BLOCK_BYTES):
            if number == 1 and not rest:
                data = data.removeprefix(_BOM)
            head, newline, rest = (rest + data).rpartition(b"\n")
            if newline:
                yield Block(number, head.replace(b"\r\n", b"\n").removesuffix(b"\r"))
                number += head.count(b"\n") + 1
            if len(rest) > _MAX_LINE_BYTES:
                raise InputError(
                    f"{redact(url)} line {number}: longer than {_MAX_LINE_BYTES:,} bytes; "
                    "is it a file of lines?"
                )
    if rest:
        yield Block(number, rest)


def first_line(url: str) -> bytes:
    """The first line that is not blank; empty if there is none.

    Raises:
        InputError: lines end in CR alone, or as `read_blocks`.
    """
    for block in read_blocks(url):
        for line in block.data.split(b"\n"):
            if not line.strip():
                continue
            if b"\r" in line.strip() and len(line) == len(block.data):
                refuse_old_line_ends(url)
            return line
    return b""


def parse_blocks(url: str, parse: Callable[[bytes], pa.Table], expected: str) -> Iterator[pa.Table]:
    """One table per block.

    Args:
        url: the file.
        parse: takes lines to rows; raises `pa.ArrowInvalid` if any of them is bad.
        expected: what a line should be, for the message.

    Raises:
        InputError: a line is bad; names the first such line.
    """
    for block in read_blocks(url):
        try:
            yield parse(block.data)
        except pa.ArrowInvalid:
            raise _bad_line(url, block, parse, expected) from None


def _bad_line(
    url: str, block: Block, parse: Callable[[bytes], pa.Table], expected: str
) -> InputError:
    """Which line it is: the last of the shortest beginning of the block that does not parse."""
    lines = block.data.split(b"\n")
    problems: dict[int, str] = {}

    def fails(n_lines: int) -> bool:
        try:
            parse(b"\n".join(lines[:n_lines]))
        except pa.ArrowInvalid as error:
            problems[n_lines] = str(error)
        return n_lines in problems

    bad = 1 + bisect.bisect_left(range(1, len(lines) + 1), True, key=fails)
    shown = lines[bad - 1].decode(errors="replace")[:_SHOWN_CHARACTERS]
    return InputError(
        f"{redact(url)} line {block.line + bad - 1}: {shown!r} is not '{expected}' "
        f"({one_line(problems[bad])}); mend or remove the line, or name another format"
    )
