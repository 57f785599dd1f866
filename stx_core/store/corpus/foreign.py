"""Files that are something else than their name or the spec says: what they are, and what to do."""

from typing import Any

from stx_core.errors import InputError
from stx_core.store.files.urls import redact

_LINES = "expected UTF-8 lines"

OLD_LINE_ENDS = "its lines end in CR alone, as on old Macs; convert it: tr '\\r' '\\n'"

# How files of other kinds begin, what they are, and what to do.
_BEGINNINGS = (
    (b"\x1f\x8b", "compressed by gzip", "give it a name that ends in .gz"),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"PK\x05\x06", "a zip archive", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it, or compress it by gzip"),
    (b"BZh", "compressed by bzip2", "unpack it, or compress it by gzip"),
    (b"\xfd7zXZ\x00", "compressed by xz", "unpack it, or compress it by gzip"),
    (b"\x04\x22\x4d\x18", "compressed by lz4", "unpack it, or compress it by gzip"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"PAR1", "a Parquet file", "set the format to parquet, or end its name in .parquet"),
    (b"PARE", "a Parquet file, encrypted", "write it without encryption"),
    (b"ARROW1", "an Arrow file", "write it as Parquet"),
    (b"ORC", "an ORC file", "write it as Parquet"),
    (b"Obj\x01", "an Avro file", "write it as Parquet"),
    (b"SQLite format 3", "a SQLite database", "write its rows as Parquet or JSON lines"),
    (b"%PDF-", "a PDF", "take out its text first"),
    (b"WARC/", "a web archive (WARC)", "take out its texts first, as JSON lines"),
    (b"\xff\xfe\x00\x00", "UTF-32 text", "convert it: iconv -f UTF-32 -t UTF-8"),
    (b"\x00\x00\xfe\xff", "UTF-32 text", "convert it: iconv -f UTF-32 -t UTF-8"),
    (b"\xff\xfe", "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"),
)


def refuse_foreign(stream: Any, url: str) -> None:  # noqa: ANN401  (an io.BufferedReader)
    """Refuse a stream of lines, at its start, that begins like a file of another kind.

    Raises:
        InputError: says what it is, and what to do.
    """
    head = stream.peek(16)[:16]
    for beginning, what, advice in _BEGINNINGS:
        if head.startswith(beginning):
            raise InputError(f"{redact(url)}: is {what}, {_LINES}; {advice}")
    if b"\0" in head[:4]:
        raise InputError(
            f"{redact(url)}: begins with NUL bytes, {_LINES}; if it is UTF-16, convert it: "
            "iconv -f UTF-16LE -t UTF-8"
        )


def refuse_other_json(first: bytes, n_rows: int, url: str) -> None:
    """Tell what a file is of whose lines few are objects; nothing if that is not plain to see.

    Args:
        first: its beginning.
        n_rows: lines that are not blank.
        url: of the file.

    Raises:
        InputError: says what it is, and what to do.
    """
    start = first.lstrip(b"\xef\xbb\xbf \t\r\n")
    if n_rows == 1 and b"\r" in start.rstrip() and b"\n" not in start.rstrip():
        raise InputError(f"{redact(url)}: {OLD_LINE_ENDS}")
    if start.startswith(b"["):
        raise InputError(
            f"{redact(url)}: is one JSON array, expected one object a line; convert it: "
            "jq -c '.[]' file.json > file.jsonl"
        )
    if start.startswith(b"{") and start.split(b"\n", 1)[0].strip() == b"{":
        raise InputError(
            f"{redact(url)}: its JSON is spread over lines, expected one object a line; convert "
            "it: jq -c . file.json > file.jsonl"
        )
