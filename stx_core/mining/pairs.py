"""The pairs of a dataset as numbered queries, documents and positives."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from stx_core.errors import InputError


@dataclass(frozen=True)
class Pairs:
    """Each query and document once, in the order of first appearance.

    Attributes:
        anchor: the name of the query column.
        positive: the name of the positive column.
        queries: Q texts.
        documents: D texts: the corpus, then the positives that are not in it.
        query_P: (P,) int64, the query of each distinct pair, ascending.
        document_P: (P,) int64, its document.
        n_rows: rows of the dataset.
        max_positives: the most rows that one query has, repeated ones included.
    """

    anchor: str
    positive: str
    queries: list[str]
    documents: list[str]
    query_P: np.ndarray
    document_P: np.ndarray
    n_rows: int
    max_positives: int


def read_pairs(
    dataset: Any,  # noqa: ANN401  (a datasets.Dataset, which is optional here)
    anchor: str | None,
    positive: str | None,
    corpus: Sequence[str] | None,
) -> Pairs:
    """Take the anchor and positive columns, the first two unless named, and the corpus.

    Raises:
        InputError: no rows, no such column, a null or something else than text, or no corpus.
    """
    names = list(dataset.column_names)
    anchor = _column(names, anchor, 0)
    positive = _column(names, positive, 1)
    if anchor == positive:
        raise InputError(f"anchor and positive are both column {anchor!r}; name two columns")
    if len(dataset) == 0:
        raise InputError("the dataset has no rows; give at least one pair of texts")
    if corpus is not None and len(corpus) == 0:
        raise InputError("the corpus is empty; leave it out to mine among the positives")
    anchors = _texts(_values(dataset, anchor), f"dataset column {anchor!r}")
    positives = _texts(_values(dataset, positive), f"dataset column {positive!r}")
    documents = _texts(corpus, "corpus") if corpus is not None else []
    query_of = {text: row for row, text in enumerate(dict.fromkeys(anchors))}
    distinct = dict.fromkeys(itertools.chain(documents, positives))
    document_of = {text: row for row, text in enumerate(distinct)}
    queries = np.fromiter(map(query_of.__getitem__, anchors), np.int64, len(anchors))
    rows = np.fromiter(map(document_of.__getitem__, positives), np.int64, len(positives))
    # Each pair where it stands first; then by query, so that a query's positives stand together.
    _, first = np.unique(queries * len(document_of) + rows, return_index=True)
    first = np.sort(first)
    order = first[np.argsort(queries[first], kind="stable")]
    return Pairs(
        anchor=anchor,
        positive=positive,
        queries=list(query_of),
        documents=list(document_of),
        query_P=queries[order],
        document_P=rows[order],
        n_rows=len(anchors),
        max_positives=int(np.bincount(queries).max()),
    )


def _column(names: list[str], name: str | None, index: int) -> str:
    if name is None:
        if len(names) <= index:
            raise InputError(f"the dataset has only the columns {names}; it needs two of texts")
        return names[index]
    if name not in names:
        raise InputError(f"the dataset has no column {name!r}, only {', '.join(map(repr, names))}")
    return name


def _values(dataset: Any, name: str) -> Sequence[Any]:  # noqa: ANN401  (see read_pairs)
    """A column; as Arrow where it can be, which is many times faster than row by row."""
    kind = getattr(dataset, "format", {}).get("type")
    if kind != "custom" and hasattr(dataset, "select_columns"):
        column = dataset.select_columns([name]).with_format("arrow")[:][name]
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            texts: list[Any] = column.to_pylist()
            return texts
    values: Sequence[Any] = dataset[name]
    return values


def _texts(values: Sequence[Any], where: str) -> Sequence[str]:
    if isinstance(values, str):
        raise InputError(f"{where} is one string; give a list of strings")
    texts = values if isinstance(values, list) else list(values)
    if set(map(type, texts)) == {str}:
        return texts
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            kind = "null" if text is None else f"a {type(text).__name__}"
            raise InputError(f"{where} row {row} is {kind}, expected a string")
    return texts
