"""How the scores of positives and negatives lie: exact for one table, mergeable over many."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa

from stx_core.histogram import Histogram
from stx_core.mining.coded import ranges
from stx_core.mining.rules import REASONS
from stx_core.mining.shortage import reason_codes
from stx_core.mining.texts import flat

MEASURES = ("Count", "Mean", "Median", "Std", "Min", "25%", "50%", "75%", "Max")
# Bins of 1/64 keep cosines and logits apart in some hundred bins; a power of two adds up exactly.
BINS_PER_UNIT = 64
_FARTHEST_BIN = 2**20


def score_table(negatives: pa.Table, num_negatives: int | None = None) -> pa.Table:
    """The table that the reference prints, exactly.

    Each positive counts once; negatives count once for each positive that they meet, and the
    difference is the positive's score less the negative's. Median is the lower of the two middle
    values, as torch has it, and 50 % the one between; Std divides by N - 1.

    Args:
        negatives: what `hard_negatives` gave.
        num_negatives: leave out the negatives of queries with fewer, as n-tuples do.

    Returns:
        measure (string), positive, negative, difference (float64; NaN where it has no value).
    """
    n_positive, positive = flat(negatives["positive_scores"])
    n_negative, negative = flat(negatives["negative_scores"])
    score_P, score_N = positive.to_numpy(), negative.to_numpy()
    met = np.where(n_negative >= (num_negatives or 0), n_negative, 0)
    query_P = np.repeat(np.arange(len(n_positive)), n_positive)
    starts = np.cumsum(n_negative) - n_negative
    rows = ranges(starts[query_P], met[query_P])
    difference = np.repeat(score_P, met[query_P]) - score_N[rows]
    sides = {"positive": score_P, "negative": score_N[rows], "difference": difference}
    return pa.table(
        {
            "measure": pa.array(MEASURES),
            **{name: pa.array(_measures(scores), pa.float64()) for name, scores in sides.items()},
        }
    )


def _measures(scores: np.ndarray) -> list[float]:
    n = len(scores)
    if n == 0:
        return [0, *[math.nan] * 8]
    ordered = np.sort(scores.astype(np.float64))
    std = ordered.std(ddof=1) if n > 1 else math.nan
    quartiles = np.quantile(ordered, [0.25, 0.5, 0.75])
    return [n, ordered.mean(), ordered[(n - 1) // 2], std, ordered[0], *quartiles, ordered[-1]]


class ScoreCounts(Histogram):
    """What is known of many scores without keeping them, to 1/64."""

    @staticmethod
    def places(values: np.ndarray) -> np.ndarray:
        """The bins of (N,) scores."""
        places: np.ndarray = np.floor(values * BINS_PER_UNIT)
        return places.clip(-_FARTHEST_BIN, _FARTHEST_BIN)

    @staticmethod
    def edge(place: int) -> float:
        """The lowest score of a bin."""
        return place / BINS_PER_UNIT


@dataclass(frozen=True)
class MiningCounts:
    """What a mining run did, as numbers that add up over blocks of queries.

    Attributes:
        queries: how many there were.
        short: how many of them have fewer negatives than wanted.
        positives: scores of all positives.
        negatives: scores of all chosen negatives, each once per query.
        reasons: how many candidates each reason rejected.
    """

    queries: int = 0
    short: int = 0
    positives: ScoreCounts = field(default_factory=ScoreCounts)
    negatives: ScoreCounts = field(default_factory=ScoreCounts)
    reasons: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, judged: pa.Table, negatives: pa.Table, num_negatives: int) -> Self:
        """Count one block: what `judge` gave, and `hard_negatives` of it."""
        n_negative, scores = flat(negatives["negative_scores"])
        codes = reason_codes(judged)
        counts = np.bincount(codes[codes >= 0], minlength=len(REASONS))
        return cls(
            len(negatives),
            int((n_negative < num_negatives).sum()),
            ScoreCounts.of(flat(negatives["positive_scores"])[1].to_numpy()),
            ScoreCounts.of(scores.to_numpy()),
            dict(zip(REASONS, counts.tolist(), strict=True)),
        )

    def __add__(self, other: "MiningCounts") -> "MiningCounts":
        """Count both blocks."""
        return MiningCounts(
            self.queries + other.queries,
            self.short + other.short,
            self.positives + other.positives,
            self.negatives + other.negatives,
            {name: self.reasons.get(name, 0) + other.reasons.get(name, 0) for name in REASONS},
        )

    @property
    def candidates(self) -> int:
        """How many candidates there were."""
        return self.negatives.n + sum(self.reasons.values())

    def to_json(self) -> dict[str, Any]:
        """The counts as plain values; `from_json` reads them back."""
        return {
            "queries": self.queries,
            "short": self.short,
            "positives": self.positives.to_json(),
            "negatives": self.negatives.to_json(),
            "reasons": {name: count for name, count in self.reasons.items() if count},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave."""
        return cls(
            values["queries"],
            values["short"],
            ScoreCounts.from_json(values["positives"]),
            ScoreCounts.from_json(values["negatives"]),
            {name: values["reasons"].get(name, 0) for name in REASONS},
        )
