"""Translations within two lists of texts, found by margin (Artetxe & Schwenk 2019).

The cosine alone prefers texts that lie near everything. The margin compares it with the mean
cosine of both texts to their k nearest neighbours on the other side. https://arxiv.org/abs/1811.01136
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from stx_core.search.dense import dense_top_k
from stx_core.search.exact import Matrix
from stx_core.search.results import TopK

Margin = Literal["ratio", "distance", "absolute"]
Direction = Literal["max", "intersection", "forward", "backward"]

# Of the cosine of a pair and the mean cosine of its neighbourhoods, as in section 3.1.
_MARGINS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    # Where neighbours lie opposite on the whole, their ratio says nothing.
    "ratio": lambda cosine, mean: np.where(mean > 0, cosine, 0) / np.where(mean > 0, mean, 1),
    "distance": lambda cosine, mean: cosine - mean,
    "absolute": lambda cosine, mean: cosine,
}


@dataclass(frozen=True)
class TextPairs:
    """Pairs of a source and a target row, best first.

    Attributes:
        sources: (P,) int64.
        targets: (P,) int64.
        scores: (P,) float64.
    """

    sources: np.ndarray
    targets: np.ndarray
    scores: np.ndarray


def bitext_mining(
    source_embeddings: Matrix,
    target_embeddings: Matrix,
    k: int = 4,
    margin: Margin = "ratio",
    *,
    direction: Direction = "max",
    min_score: float = -np.inf,
    device: torch.device | str = "cpu",
) -> TextPairs:
    """Pair the texts of two languages that are most likely translations of each other.

    Args:
        source_embeddings: (N, D).
        target_embeddings: (M, D), of the same model.
        k: neighbours to take the mean cosine of.
        margin: "ratio" (the cosine by that mean, 0 where the mean is not above 0), "distance"
            (their difference) or "absolute" (the cosine).
        direction: "forward": the best target of each source; "backward": the best source of each
            target; "intersection": pairs that are both; "max": of both the higher scores first,
            each text once.
        min_score: leave out pairs of lower margin.
        device: where to compute.

    Returns:
        Pairs by score descending, then by source, then by target.

    Raises:
        ValueError: k is below 1, or there is no such margin or direction.
    """
    if k < 1 or margin not in _MARGINS:
        raise ValueError(
            f"k must be 1 or more and margin one of {', '.join(_MARGINS)}; got {k} and {margin!r}"
        )
    if direction not in ("max", "intersection", "forward", "backward"):
        raise ValueError(
            f"direction must be max, intersection, forward or backward, got {direction!r}"
        )
    if np.isnan(min_score):
        raise ValueError("min_score is NaN; give a number or leave it out")
    forward = dense_top_k(source_embeddings, target_embeddings, k, device=device)
    backward = dense_top_k(target_embeddings, source_embeddings, k, device=device)
    means = _mean_scores(forward), _mean_scores(backward)
    there = _best_of_each(forward, *means, margin)
    back = _best_of_each(backward, *means[::-1], margin)
    back = TextPairs(back.targets, back.sources, back.scores)
    if direction == "forward":
        pairs = there
    elif direction == "backward":
        pairs = back
    elif direction == "intersection":
        pairs = _where(there, np.isin(_keys(there), _keys(back)))
    else:
        new = _where(back, ~np.isin(_keys(back), _keys(there)))
        pairs = TextPairs(
            np.concatenate([there.sources, new.sources]),
            np.concatenate([there.targets, new.targets]),
            np.concatenate([there.scores, new.scores]),
        )
    pairs = _where(pairs, np.lexsort((pairs.targets, pairs.sources, -pairs.scores)))
    pairs = _where(pairs, pairs.scores >= min_score)
    if direction != "max":
        return pairs
    # Pairs both of whose texts occur in no earlier pair.
    chosen = np.zeros(len(pairs.scores), bool)
    sources, targets = set[int](), set[int]()
    rows = zip(pairs.sources.tolist(), pairs.targets.tolist(), strict=True)
    for i, (source, target) in enumerate(rows):
        if source not in sources and target not in targets:
            sources.add(source)
            targets.add(target)
            chosen[i] = True
    return _where(pairs, chosen)


def _mean_scores(neighbours: TopK) -> np.ndarray:
    """(Q,) float64 mean cosine of each row to its neighbours; there may be fewer than k."""
    used = neighbours.rows >= 0
    total = np.where(used, neighbours.scores, 0.0).sum(axis=1, dtype=np.float64)
    means: np.ndarray = total / np.maximum(used.sum(axis=1), 1)
    return means


def _best_of_each(
    neighbours: TopK, own_means: np.ndarray, other_means: np.ndarray, margin: Margin
) -> TextPairs:
    """Of each row that has neighbours the one of highest margin."""
    used = neighbours.rows >= 0
    if not used.any():
        return TextPairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    means = (own_means[:, None] + other_means[neighbours.rows]) / 2
    scores = np.where(used, _MARGINS[margin](neighbours.scores.astype(np.float64), means), -np.inf)
    rows, best = np.arange(len(scores)), scores.argmax(axis=1)
    return TextPairs(rows, neighbours.rows[rows, best], scores[rows, best])


def _keys(pairs: TextPairs) -> np.ndarray:
    """(P,) one number for each pair: rows are far fewer than 2^31."""
    keys: np.ndarray = (pairs.sources << 32) | pairs.targets
    return keys


def _where(pairs: TextPairs, chosen: np.ndarray) -> TextPairs:
    return TextPairs(pairs.sources[chosen], pairs.targets[chosen], pairs.scores[chosen])
