"""Files of lines, parsed block by block: as fast as the parser, and exact about a bad line."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stx_core.errors import InputError
from stx_core.store.corpus.foreign import OLD_LINE_ENDS, refuse_foreign
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
                raise InputError(f"{redact(url)}: {OLD_LINE_ENDS}")
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
        except pa.ArrowInvalid as error:
            lines = block.data.split(b"\n")
            n, problem = shortest_refused(
                lambda beginning: parse(b"\n".join(beginning)), lines, str(error)
            )
            shown = lines[n - 1].decode(errors="replace")[:_SHOWN_CHARACTERS]
            raise InputError(
                f"{redact(url)} line {block.line + n - 1}: {shown!r} is not '{expected}' "
                f"({one_line(problem)}); mend or remove the line, or name another format"
            ) from None


def shortest_refused(
    convert: Callable[[Any], object], rows: Sequence[Any], problem: str
) -> tuple[int, str]:
    """Find the shortest beginning of refused rows that is refused; its last row is bad.

    Args:
        convert: raises `pa.ArrowInvalid` if any of the rows that it is given is bad.
        rows: a list or a table.
        problem: that it has with all of them.

    Returns:
        Length and problem of the beginning.
    """
    good, refused = 0, len(rows)
    while refused - good > 1:
        middle = (good + refused) // 2
        try:
            convert(rows[:middle])
            good = middle
        except pa.ArrowInvalid as error:
            refused, problem = middle, str(error)
    return refused, problem
