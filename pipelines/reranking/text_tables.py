"""Candidates that are texts: tables with a ``query`` and a ``document`` in each row."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.retrieval.rankings import ranks
from stx_core.errors import InputError
from stx_core.evaluation.records import NAMES, ids, numbers
from stx_core.store.corpus.columns import corpus_schema
from stx_core.store.corpus.readers import list_shards, read_rows, shard_rows
from stx_core.store.corpus.units import plan_units
from stx_core.store.files.filesystem import file_info
from stx_core.store.files.urls import redact

TEXTS = ("query", "document")

_COLUMNS = {name: NAMES[name] for name in ("query_id", "doc_id", "rank", "score")}
_ENDINGS = (".parquet", ".pq", ".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
_ROWS_AT_ONCE = 65_536


def is_text_table(urls: Sequence[str]) -> bool:
    """True for files with a column ``query`` or ``document``; the first one is looked at."""
    if not urls[0].lower().endswith(_ENDINGS):
        return False
    return bool(set(TEXTS) & set(shard_rows(file_info(urls[0]), columns=()).schema.names))


def read_text_table(urls: Sequence[str]) -> pa.Table:
    """Read candidates with texts, in the order of the files.

    Where there are no ids, a document's is that of its row, as `encode` gives it: file and row
    number; and a query's that of the first row with this text. Without ranks, the score decides;
    without either, the order of the file.

    Returns:
        ``query_id``, ``doc_id``, ``rank``, ``score``, and those of ``query`` and ``document`` that
        the files have. Documents may be null.

    Raises:
        InputError: a column is missing, or a row is bad; names it.
    """
    columns = [*TEXTS, *chain.from_iterable(_COLUMNS.values())]
    shards = [shard for shard in list_shards(urls, columns=columns) if shard.n_rows]
    names = _names(urls[0], shards[0].schema if shards else pa.schema([]))
    id_columns = [column for column, name in names.items() if name in ("query_id", "doc_id")]
    schema = corpus_schema(shards, list(names), id_columns)
    tables = []
    for unit in plan_units(shards, _ROWS_AT_ONCE):
        rows = read_rows(unit, schema)
        if rows.bad:
            bad = rows.bad[0]
            raise InputError(
                f"{redact(unit.url)} row {bad.row}: {bad.detail}; mend or remove the row"
            )
        places = [f"{unit.url}:{row}" for row in rows.row_numbers.tolist()]
        table = rows.table.rename_columns([names[name] for name in rows.table.column_names])
        tables.append(table.append_column("place", pa.array(places, pa.string())))
    table = pa.concat_tables(tables)
    try:
        return _ranked(_with_ids(table))
    except pa.ArrowInvalid as error:
        raise InputError(f"{redact(urls[0])}: {error}; mend or remove the row") from None


def _names(url: str, schema: pa.Schema) -> dict[str, str]:
    """Name of a column here, by its name in the files."""
    aliases = _COLUMNS | {name: (name,) for name in TEXTS}
    names = {
        next(alias for alias in aliases_of_name if alias in schema.names): name
        for name, aliases_of_name in aliases.items()
        if set(aliases_of_name) & set(schema.names)
    }
    for id_column, text in (("query_id", "query"), ("doc_id", "document")):
        if not {id_column, text} & set(names.values()):
            raise InputError(
                f"{redact(url)}: needs a column {text}, or {' or '.join(NAMES[id_column])}; "
                "rename yours"
            )
    return names


def _with_ids(table: pa.Table) -> pa.Table:
    for text in set(TEXTS) & set(table.column_names):
        place = table.schema.get_field_index(text)
        table = table.set_column(place, text, table[text].cast(pa.string()))
    if "query" in table.column_names and table["query"].null_count:
        raise pa.ArrowInvalid("query is null")
    if "query_id" not in table.column_names:
        texts = table["query"].combine_chunks().dictionary_encode().indices
        _, first = np.unique(texts.to_numpy(), return_index=True)
        table = table.append_column("query_id", table["place"].take(pa.array(first)).take(texts))
    if "doc_id" not in table.column_names:
        table = table.append_column("doc_id", table["place"])
    for name in ("query_id", "doc_id"):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, ids(table[name], name))
    return table


def _ranked(table: pa.Table) -> pa.Table:
    """The columns of a ranking, and the texts."""
    rank = None
    if "rank" in table.column_names:
        rank = numbers(table["rank"], "rank", pa.int32())
    if "score" in table.column_names:
        score = numbers(table["score"], "score", pa.float32())
    queries = table["query_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    if rank is None:
        keys = [np.arange(len(table)), queries]
        if "score" in table.column_names:
            keys.insert(1, -score.to_numpy())
        order = np.lexsort(keys)
        places = np.empty(len(table), np.int32)
        places[order] = ranks(queries[order])
        rank = pa.array(places)
    if "score" not in table.column_names:
        score = pc.cast(pc.negate(rank), pa.float32())
    texts = {name: table[name] for name in TEXTS if name in table.column_names}
    return pa.table(
        {"query_id": table["query_id"], "doc_id": table["doc_id"], "rank": rank, "score": score}
        | texts
    )
