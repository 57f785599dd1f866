"""Rankings as lines of a TREC run file: ``query_id Q0 doc_id rank score tag``."""

import pyarrow as pa
import pyarrow.compute as pc

from stx_core.errors import InputError

# What tools split lines at: ASCII, and all that Python's str.split() takes for a space.
_SPACE = r"[\s\v\x1c-\x1f\x{85}\p{Z}]"


def check_tag(tag: str) -> None:
    """Check the name of a ranking.

    Raises:
        InputError: it is empty or holds white space.
    """
    if not tag or len(tag.split()) != 1 or tag != tag.strip():
        raise InputError(f"tag {tag!r}: a TREC run file has one word there; name it like my-run")


def trec_lines(table: pa.Table, tag: str) -> bytes:
    """One line per row, in the order of the table; scores in as few digits as give them back.

    Args:
        table: with the schema `store.schema.RANKING`; some 100,000 rows at most.
        tag: name of the ranking; one word.

    Raises:
        InputError: an id is empty or holds white space; names it.
    """
    for name in ("query_id", "doc_id"):
        _refuse_spaces(table[name], name)
    query, document = table["query_id"], table["doc_id"]
    rank, score = table["rank"].cast(pa.string()), table["score"].cast(pa.string())
    lines = pc.binary_join_element_wise(query, "Q0", document, rank, score, f"{tag}\n", " ")
    # The bytes of an array of strings stand behind each other: that is the file.
    return b"".join(_bytes(chunk) for chunk in lines.chunks)


def _refuse_spaces(column: pa.ChunkedArray, name: str) -> None:
    bad = pc.or_(pc.match_substring_regex(column, _SPACE), pc.equal(column, ""))
    place = pc.index(bad, True).as_py()
    if place >= 0:
        raise InputError(
            f"{name} {column[place].as_py()!r} is empty or holds white space, which a TREC run "
            "file cannot hold; rename the ids, or export as top_ranked"
        )


def _bytes(lines: pa.Array) -> bytes:
    if not len(lines):
        return b""
    offsets, data = lines.buffers()[1:]
    first, last = (
        int.from_bytes(offsets[4 * place : 4 * place + 4].to_pybytes(), "little")
        for place in (lines.offset, lines.offset + len(lines))
    )
    content: bytes = data[first:last].to_pybytes()
    return content
