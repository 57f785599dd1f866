"""The best pairs within one list of texts, with the arguments that Sentence Transformers has."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stx_core.choices import check_count
from stx_core.search.exact import check_finite
from stx_core.search.semantic import ScoreFunction, top_k_by
from stx_core.similarity import Embeddings, as_matrix, cos_sim


def paraphrase_mining(
    model: Any,  # noqa: ANN401  (anything with `encode`: this layer knows no models)
    sentences: Sequence[str],
    show_progress_bar: bool = False,
    batch_size: int = 32,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
    truncate_dim: int | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> list[list[float | int]]:
    """Embed the texts, and find the pairs that score highest.

    The arguments from `truncate_dim` on, `show_progress_bar` and `batch_size` go to
    `model.encode`; the others, the result and the errors are those of
    `paraphrase_mining_embeddings`.
    """
    embeddings = model.encode(
        sentences,
        show_progress_bar=show_progress_bar,
        batch_size=batch_size,
        convert_to_tensor=True,
        truncate_dim=truncate_dim,
        prompt_name=prompt_name,
        prompt=prompt,
    )
    return paraphrase_mining_embeddings(
        embeddings,
        query_chunk_size,
        corpus_chunk_size,
        max_pairs=max_pairs,
        top_k=top_k,
        score_function=score_function,
    )


def paraphrase_mining_embeddings(
    embeddings: Embeddings,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
) -> list[list[float | int]]:
    """Find the pairs of rows that score highest.

    A pair is found when one of its rows is among the `top_k` of the other.

    Args:
        embeddings: (N, D).
        query_chunk_size: rows whose neighbours are held at a time.
        corpus_chunk_size: rows they are compared with at a time by a score function that is not
            one of `similarity`'s.
        max_pairs: how many pairs to return.
        top_k: neighbours of each row.
        score_function: symmetric, from (B, D) and (C, D) to (B, C).

    Returns:
        [score, i, j] with i < j; best first, equal scores by i, then j.

    Raises:
        ValueError: a value is not finite, a size is below 1, `max_pairs` or `top_k` is negative, or
            the score function is none.
    """
    matrix = as_matrix(embeddings)
    check_finite(matrix, 0, "embeddings")
    check_count("max_pairs", max_pairs, least=0)
    check_count("query_chunk_size", query_chunk_size)
    pairs = np.empty((0, 2), np.int64)
    scores = np.empty(0, np.float32)
    for start in range(0, len(matrix), query_chunk_size):
        rows = np.arange(start, min(start + query_chunk_size, len(matrix)))
        neighbours = top_k_by(
            score_function,
            matrix.index_select(0, torch.from_numpy(rows).to(matrix.device)),
            matrix,
            k=top_k,
            query_chunk_size=query_chunk_size,
            corpus_chunk_size=corpus_chunk_size,
            excluded=rows,
        )
        used = neighbours.rows >= 0
        both = [np.broadcast_to(rows[:, None], used.shape)[used], neighbours.rows[used]]
        pairs = np.concatenate([pairs, np.sort(np.stack(both, axis=1), axis=1)])
        scores = np.concatenate([scores, neighbours.scores[used]])
        # The best of them, each once: found from both sides it has one score, or nearly so.
        order = np.lexsort((-scores, pairs[:, 1], pairs[:, 0]))
        pairs, scores = pairs[order], scores[order]
        first = np.ones(len(pairs), bool)
        first[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
        pairs, scores = pairs[first], scores[first]
        best = np.argsort(-scores, kind="stable")[:max_pairs]
        pairs, scores = pairs[best], scores[best]
    return [[score, i, j] for score, (i, j) in zip(scores.tolist(), pairs.tolist(), strict=True)]
