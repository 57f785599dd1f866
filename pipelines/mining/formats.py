"""The training rows that `mine` can write, by the name of the format."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa

from stx.pipelines.spec.retrieval import FORMATS_OF_IDS, MiningFormat
from stx_core.mining import formats, trainer_formats
from stx_core.mining.coded import ranges
from stx_core.mining.texts import Texts, flat

Make = Callable[[pa.Table, Texts], pa.Table]
"""Makes training rows of the result of `hard_negatives`, and the texts."""


def makers(num_negatives: int, *, scores: bool) -> dict[MiningFormat, Make]:
    """All formats.

    Args:
        num_negatives: width of n-tuples.
        scores: true where formats that leave the choice are to hold scores.
    """
    return {
        "ids": lambda negatives, _: ids_of_triplets(negatives),
        "triplet": partial(formats.triplets, scores=scores),
        "n-tuple": partial(formats.n_tuples, num_negatives=num_negatives, scores=scores),
        "labeled-pair": partial(formats.labeled_pairs, scores=scores),
        "labeled-list": partial(formats.labeled_lists, scores=scores),
        "flag_embedding": trainer_formats.flag_embedding,
        "tevatron": trainer_formats.tevatron_passages,
        "tevatron-ids": trainer_formats.tevatron_ids,
        "pylate": lambda negatives, _: trainer_formats.knowledge_distillation(negatives),
        "margin_mse": trainer_formats.margin_mse,
        "kl": trainer_formats.kl_lists,
    }


def needs_texts(name: str) -> bool:
    """True for formats that hold texts."""
    return name not in FORMATS_OF_IDS


def ids_of_triplets(negatives: pa.Table) -> pa.Table:
    """One row per positive and negative: query_id, positive_id, negative_id and both scores."""
    n_positive, positive_ids = flat(negatives["positive_ids"])
    n_negative, negative_ids = flat(negatives["negative_ids"])
    query_P = np.repeat(np.arange(len(negatives)), n_positive)  # noqa: N806  (shape suffix)
    met = n_negative[query_P]
    positive = pa.array(np.repeat(np.arange(len(query_P)), met))
    starts = np.cumsum(n_negative) - n_negative
    negative = pa.array(ranges(starts[query_P], met))
    return pa.table(
        {
            "query_id": negatives["query_id"].take(pa.array(np.repeat(query_P, met))),
            "positive_id": positive_ids.take(positive),
            "negative_id": negative_ids.take(negative),
            "positive_score": flat(negatives["positive_scores"])[1].take(positive),
            "negative_score": flat(negatives["negative_scores"])[1].take(negative),
        }
    )
