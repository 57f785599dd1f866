"""Training rows in the layouts of other trainers: FlagEmbedding, Tevatron, PyLate, distillation.

Each takes the ids that `hard_negatives` gave and, where rows hold text, the texts. A JSONL file is
these rows, one object a line (`table.to_pylist()`).
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx_core.errors import InputError
from stx_core.mining.formats import in_lists, labeled_lists, n_tuples, strings, triplets
from stx_core.mining.texts import Mined, Texts, flat, join


def flag_embedding(
    negatives: pa.Table,
    texts: Texts,
    *,
    scores: bool = True,
    prompt: str | None = None,
    type: str | None = None,  # noqa: A002  (the name of the field)
) -> pa.Table:
    """FlagEmbedding: query, pos, neg [, pos_scores, neg_scores] [, prompt] [, type].

    Queries without negatives are left out: its trainer cannot read them.
    """
    complete = with_negatives(negatives)
    mined = join(complete, texts)
    rows: dict[str, pa.ChunkedArray] = {
        "query": strings(mined.query, np.arange(len(complete))),
        "pos": in_lists(strings(mined.document, mined.positive), mined.n_positive),
        "neg": in_lists(strings(mined.document, mined.negative), mined.n_negative),
    }
    if scores:
        rows["pos_scores"] = complete["positive_scores"]
        rows["neg_scores"] = complete["negative_scores"]
    for name, value in (("prompt", prompt), ("type", type)):
        if value is not None:
            rows[name] = pa.repeat(value, len(complete))
    return pa.table(rows)


def tevatron_ids(negatives: pa.Table, texts: Texts) -> pa.Table:
    """Tevatron 2: query_id, query_text, positive_document_ids, negative_document_ids.

    Ids as strings. `tevatron_corpus` gives the documents that they name.
    """
    complete = with_negatives(negatives)
    mined = join(complete, texts)
    return pa.table(
        {
            "query_id": complete["query_id"].cast(pa.string()),
            "query_text": strings(mined.query, np.arange(len(complete))),
            "positive_document_ids": complete["positive_ids"].cast(pa.list_(pa.string())),
            "negative_document_ids": complete["negative_ids"].cast(pa.list_(pa.string())),
        }
    )


def tevatron_corpus(documents: pa.Table) -> pa.Table:
    """Tevatron 2: docid, document_text."""
    return pa.table(
        {"docid": documents["doc_id"].cast(pa.string()), "document_text": documents["text"]}
    )


def tevatron_passages(negatives: pa.Table, texts: Texts) -> pa.Table:
    """Tevatron 1: query_id, query, positive_passages, negative_passages with docid, title, text.

    The title is empty where documents have none.
    """
    complete = with_negatives(negatives)
    mined = join(complete, texts)
    return pa.table(
        {
            "query_id": complete["query_id"].cast(pa.string()),
            "query": strings(mined.query, np.arange(len(complete))),
            "positive_passages": in_lists(
                _passages(texts.documents, mined, mined.positive), mined.n_positive
            ),
            "negative_passages": in_lists(
                _passages(texts.documents, mined, mined.negative), mined.n_negative
            ),
        }
    )


def knowledge_distillation(negatives: pa.Table) -> pa.Table:
    """PyLate: query_id, document_ids (positives first), scores; its other two tables hold texts."""
    complete = with_negatives(negatives)
    return pa.table(
        {
            "query_id": complete["query_id"],
            "document_ids": _joined(complete["positive_ids"], complete["negative_ids"]),
            "scores": _joined(complete["positive_scores"], complete["negative_scores"]),
        }
    )


def margin_mse(negatives: pa.Table, texts: Texts, *, num_negatives: int | None = None) -> pa.Table:
    """MarginMSE (arXiv 2010.02666): query, positive, negative and the margin to learn.

    Without `num_negatives` one row per positive and negative, `score` being the positive's less
    the negative's. With it one row per positive that has so many: negative_1 … negative_n and
    `score`, the list of margins.
    """
    if num_negatives is None:
        rows = triplets(negatives, texts, scores=True)
        width = 1
    else:
        rows = n_tuples(negatives, texts, num_negatives, scores=True)
        width = num_negatives
    score = flat(rows["scores"])[1].to_numpy().reshape(-1, width + 1)
    margin = score[:, :1] - score[:, 1:]
    column: pa.Array = pa.array(margin[:, 0])
    if num_negatives is not None:
        column = in_lists(pa.array(margin.reshape(-1)), np.full(len(margin), width))
    return rows.drop_columns("scores").append_column("score", column)


def kl_lists(negatives: pa.Table, texts: Texts) -> pa.Table:
    """Listwise distillation: query, documents (one positive first), scores of the teacher.

    One row per positive; scores are as the judge gave them: the loss takes the softmax.
    """
    return labeled_lists(negatives, texts, scores=True, positive="documents")


def with_negatives(negatives: pa.Table) -> pa.Table:
    """The queries that have at least one negative."""
    return negatives.filter(pc.greater(pc.list_value_length(negatives["negative_ids"]), 0))


def _passages(documents: pa.Table, mined: Mined, rows: np.ndarray) -> pa.StructArray:
    taken = documents.take(pa.array(rows))
    titled = "title" in documents.column_names
    titles = pc.fill_null(taken["title"], "") if titled else pa.repeat("", len(rows))
    fields = {
        "docid": taken["doc_id"].cast(pa.string()),
        "title": titles,
        "text": strings(mined.document, rows),
    }
    arrays = [
        field.combine_chunks() if isinstance(field, pa.ChunkedArray) else field
        for field in fields.values()
    ]
    return pa.StructArray.from_arrays(arrays, names=list(fields))


def _joined(positives: pa.ChunkedArray, negatives: pa.ChunkedArray) -> pa.ListArray:
    """Row i of the positives, then row i of the negatives, as one list."""
    if positives.type != negatives.type:
        raise InputError(
            f"positives are {positives.type}, negatives {negatives.type}; give both one type"
        )
    (n_P, values_P), (n_N, values_N) = flat(positives), flat(negatives)
    rows = np.arange(len(n_P))
    order = np.argsort(np.concatenate([np.repeat(rows, n_P), np.repeat(rows, n_N)]), kind="stable")
    values = pa.chunked_array([*values_P.chunks, *values_N.chunks], type=positives.type.value_type)
    return in_lists(values.take(pa.array(order)), n_P + n_N)
