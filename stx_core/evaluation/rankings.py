"""Rankings, read as tables of query_id, doc_id, rank, score, see `store.schema.RANKING`.

| format  | what |
|---|---|
| trec    | lines ``query_id Q0 doc_id rank score tag``: TREC run files |
| msmarco | lines ``query_id doc_id rank`` or ``query_id doc_id rank score`` |
| parquet | columns query_id, doc_id, and rank or score or both; or MTEB's ``top_ranked``: query-id, corpus-ids (a list, best first) |
| jsonl   | the same, one object a line |

All may be compressed by gzip, Parquet excepted. A dataset that stx wrote is read as it is.

The rank decides. Without ranks, documents are ranked by score. Without scores, the score of a
document is its negative rank. Ranks that begin with 0 are raised by one.
"""  # noqa: E501  (a table)

import itertools
import os
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from stx_core.errors import InputError
from stx_core.evaluation.delimited import Layout
from stx_core.evaluation.files import list_parts, read_tables, require
from stx_core.evaluation.records import Convert, ids, numbers
from stx_core.evaluation.whole_queries import best_first, whole_queries, with_ranks
from stx_core.store.data_file import read_batches
from stx_core.store.files.filesystem import list_names
from stx_core.store.files.urls import LOCAL, join, local_path, redact, scheme
from stx_core.store.schema import RANKING
from stx_core.store.snapshot import open_snapshot

_ID, _RANK, _SCORE = pa.string(), pa.int32(), pa.float32()
_TREC = (
    ("query_id", _ID), ("", _ID), ("doc_id", _ID), ("rank", _RANK), ("score", _SCORE), ("", _ID),
)  # fmt: skip
_MSMARCO = (("query_id", _ID), ("doc_id", _ID), ("rank", _RANK), ("score", _SCORE))

_LAYOUTS = {
    "trec": (Layout(_TREC, tabs=False),),
    "msmarco": (Layout(_MSMARCO[:3], tabs=False), Layout(_MSMARCO, tabs=False)),
}
FORMATS = (*_LAYOUTS, "parquet", "jsonl")

_ROWS_AT_ONCE = 65_536


def read_rankings(
    path: str, format: str | None = None, output: str | None = None
) -> Iterator[pa.Table]:
    """Read a ranking table by table; memory is some of them, whatever its size.

    Args:
        path: a dataset that stx wrote, a file, a folder of files, or a glob.
        format: of files, see the top of this file; None to tell by name or first line.
        output: of a dataset, where it has several.

    Yields:
        Tables with the schema `RANKING`, in the order of the files: a query may go on in the next
        table. Ranks and scores are not null.

    Raises:
        InputError: nothing is there, it is no ranking, or a line or row is bad; names it.
        StoreError: the dataset has no snapshot.
        SpecError: no such output.
    """
    if is_dataset(path):
        yield from dataset_tables(open_snapshot(path, output=output), path)
        return
    if output is not None:
        raise InputError(
            f"{redact(path)}: no dataset of stx, it has no outputs; leave out {output!r}"
        )
    for url in list_parts(path):
        tables = _from_rank_one(read_tables(url, format, _LAYOUTS, _convert_of))
        for table in tables:
            if not table["rank"].null_count:
                yield table
                continue
            # A file without ranks: its queries are ranked by score.
            for whole in whole_queries(itertools.chain([table], tables)):
                yield with_ranks(best_first(whole))


def is_dataset(path: str) -> bool:
    """Tell whether a path is the folder of a dataset that stx wrote."""
    if scheme(path) == LOCAL and not os.path.isdir(local_path(path)):
        return False
    return bool(list_names(join(path, "_stx", "log")))


def dataset_tables(dataset: ds.FileSystemDataset, name: str) -> Iterator[pa.Table]:
    """Read a ranking from a dataset that is open; as `read_rankings`.

    Args:
        dataset: has the columns of `RANKING`, and any others.
        name: of the dataset, for messages.
    """
    if lacking := [column for column in RANKING.names if column not in dataset.schema.names]:
        raise InputError(
            f"{redact(name)}: no ranking, it lacks {', '.join(lacking)}; "
            f"it has {', '.join(dataset.schema.names)}"
        )
    for batch in read_batches(dataset, RANKING.names, _ROWS_AT_ONCE):
        try:
            yield _from_rows(pa.Table.from_batches([batch]))
        except pa.ArrowInvalid as error:
            raise InputError(f"{redact(name)}: no ranking: {error}") from None


def _convert_of(url: str, names: list[str]) -> Convert:
    if "doc_ids" in names and "doc_id" not in names:
        require(url, names, "query_id")
        return _from_lists
    require(url, names, "query_id", "doc_id")
    if "rank" not in names:
        require(url, names, "score")
    return _from_rows


def _from_rows(table: pa.Table) -> pa.Table:
    """Columns of a ranking; rank is null where the file has none."""
    has_rank, has_score = "rank" in table.column_names, "score" in table.column_names
    rank = numbers(table["rank"], "rank", _RANK) if has_rank else pa.nulls(len(table), _RANK)
    if has_rank and len(table) and pc.min(rank).as_py() < 0:
        raise pa.ArrowInvalid("rank is negative")
    score = pc.cast(pc.negate(rank), _SCORE)
    if has_score and not has_rank:
        score = numbers(table["score"], "score", _SCORE)
    elif has_score:
        score = pc.coalesce(numbers(table["score"], "score", _SCORE, nulls=True), score)
    columns = [ids(table["query_id"], "query_id"), ids(table["doc_id"], "doc_id"), rank, score]
    return pa.table(columns, schema=RANKING)


def _from_lists(table: pa.Table) -> pa.Table:
    """One row per document of each list, ranked by its place."""
    lists = table["doc_ids"].combine_chunks()
    if not pa.types.is_list(lists.type) and not pa.types.is_large_list(lists.type):
        raise pa.ArrowInvalid(f"doc_ids is {lists.type}, expected lists of ids")
    if lists.null_count:
        raise pa.ArrowInvalid("doc_ids is null")
    lengths = pc.list_value_length(lists).to_numpy()
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    rank = (np.arange(1, len(starts) + 1) - starts).astype(np.int32)
    query = ids(table["query_id"], "query_id").take(pc.list_parent_indices(lists))
    document = ids(pa.chunked_array([lists.flatten()]), "doc_ids")
    return pa.table([query, document, rank, -rank.astype(np.float32)], schema=RANKING)


def _from_rank_one(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Raise all ranks by one where the first is 0."""
    raised: int | None = None
    place = RANKING.get_field_index("rank")
    for table in tables:
        if raised is None and len(table):
            raised = int(table["rank"][0].as_py() == 0)
        if raised:
            rank = pc.add(table["rank"], pa.scalar(1, _RANK))
            table = table.set_column(place, RANKING.field("rank"), rank)
        yield table
