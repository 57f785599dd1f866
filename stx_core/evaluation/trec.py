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
        ids = table[name]
        bad = pc.index(pc.or_(pc.match_substring_regex(ids, _SPACE), pc.equal(ids, "")), True)
        if (row := bad.as_py()) >= 0:
            raise InputError(
                f"{name} {ids[row].as_py()!r} is empty or holds white space, which a TREC run "
                "file cannot hold; rename the ids, or export as top_ranked"
            )
    query, document = table["query_id"], table["doc_id"]
    rank, score = table["rank"].cast(pa.string()), table["score"].cast(pa.string())
    fields = [query, "Q0", document, rank, score, f"{tag}\n"]
    content = []
    for lines in pc.binary_join_element_wise(*fields, " ").chunks:
        if not len(lines):
            continue
        # The bytes of an array of strings stand behind each other: that is the file.
        offsets, data = lines.buffers()[1:]
        first, last = (
            int.from_bytes(offsets[4 * index : 4 * index + 4].to_pybytes(), "little")
            for index in (lines.offset, lines.offset + len(lines))
        )
        content.append(data[first:last].to_pybytes())
    return b"".join(content)
