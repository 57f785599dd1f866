"""Judgements, read into one table of query_id, doc_id, score, see `store.schema.QRELS`.

| format  | what |
|---|---|
| trec    | lines ``query_id iteration doc_id score`` |
| beir    | lines ``query-id<tab>corpus-id<tab>score``, with or without a line of names |
| parquet | columns query_id, doc_id, score, under these names or those of MTEB and the hub |
| jsonl   | the same, one object a line |

All may be compressed by gzip, Parquet excepted.
"""

import pyarrow as pa

from stx_core.errors import InputError
from stx_core.evaluation.delimited import Layout
from stx_core.evaluation.files import list_parts, read_tables, require
from stx_core.evaluation.records import Convert, ids, numbers
from stx_core.store.files.listing import is_glob
from stx_core.store.files.urls import redact
from stx_core.store.schema import QRELS

# Read as decimal numbers, because some tools write 1.0 for 1; only whole ones are taken.
_TREC = Layout(
    (
        ("query_id", pa.string()),
        ("", pa.string()),
        ("doc_id", pa.string()),
        ("score", pa.float64()),
    ),
    tabs=False,
)
_BEIR = Layout(
    (("query_id", pa.string()), ("doc_id", pa.string()), ("score", pa.float64())),
    tabs=True,
    has_header=True,
)
_LAYOUTS = {"beir": (_BEIR,), "trec": (_TREC,)}


def read_qrels(url: str, format: str | None = None) -> pa.Table:
    """Read judgements, in the order of the file.

    Args:
        url: a file, a folder with one file in it, or a glob.
        format: see the top of this file; None to tell by name or first line.

    Returns:
        A table with the schema `QRELS`; not empty.

    Raises:
        InputError: nothing is there, or a line or row is bad; names it.
    """
    urls = list_parts(url)
    if len(urls) > 1 and not is_glob(url):
        # Usually the splits train, dev and test, which must not be mixed by accident.
        names = ", ".join(part.rsplit("/", 1)[-1] for part in urls[:5])
        raise InputError(f"{redact(url)}: holds {len(urls)} files ({names} …); name one of them")
    tables = [table for part in urls for table in read_tables(part, format, _LAYOUTS, _convert_of)]
    table = pa.concat_tables(tables or [QRELS.empty_table()])
    if not len(table):
        raise InputError(f"{redact(url)}: holds no judgements")
    return table


def _convert_of(url: str, names: list[str]) -> Convert:
    require(url, names, "query_id", "doc_id", "score")
    return _convert


def _convert(table: pa.Table) -> pa.Table:
    columns = [
        ids(table["query_id"], "query_id"),
        ids(table["doc_id"], "doc_id"),
        numbers(table["score"], "score", pa.int32()),
    ]
    return pa.table(columns, schema=QRELS)
