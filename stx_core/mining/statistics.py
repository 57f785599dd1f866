"""How the scores of positives and negatives lie: exact for one table, mergeable over many."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa

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


@dataclass(frozen=True)
class ScoreCounts:
    """What is known of many scores without keeping them. Merging is exact, in any order.

    Attributes:
        n: how many.
        total: their sum, total_squares that of their squares; rounded as floats are.
        low: the lowest, inf of none.
        high: the highest, -inf of none.
        bins: how many lie in [i / 64, (i + 1) / 64), by i.
    """

    n: int = 0
    total: float = 0.0
    total_squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    bins: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, scores: np.ndarray) -> Self:
        """Count (N,) scores."""
        if not len(scores):
            return cls()
        exact = scores.astype(np.float64)
        places = np.clip(np.floor(exact * BINS_PER_UNIT), -_FARTHEST_BIN, _FARTHEST_BIN)
        bins, counts = np.unique(places.astype(np.int64), return_counts=True)
        return cls(
            len(exact),
            float(exact.sum()),
            float((exact**2).sum()),
            float(exact.min()),
            float(exact.max()),
            dict(zip(bins.tolist(), counts.tolist(), strict=True)),
        )

    def __add__(self, other: "ScoreCounts") -> "ScoreCounts":
        """Count both."""
        bins = dict(self.bins)
        for place, count in other.bins.items():
            bins[place] = bins.get(place, 0) + count
        return ScoreCounts(
            self.n + other.n,
            self.total + other.total,
            self.total_squares + other.total_squares,
            min(self.low, other.low),
            max(self.high, other.high),
            dict(sorted(bins.items())),
        )

    @property
    def mean(self) -> float:
        """The mean; NaN of none."""
        return self.total / self.n if self.n else math.nan

    @property
    def std(self) -> float:
        """The standard deviation, dividing by N - 1; NaN of fewer than two."""
        if self.n < 2:
            return math.nan
        return math.sqrt(max(self.total_squares - self.total * self.mean, 0) / (self.n - 1))

    def quantile(self, share: float) -> float:
        """A quantile, to 1/64: the middle of its bin, and never outside of low and high."""
        if not self.n:
            return math.nan
        places = sorted(self.bins)
        counts = np.cumsum([self.bins[place] for place in places])
        place = places[int(np.searchsorted(counts, share * (self.n - 1), side="right"))]
        return min(max((place + 0.5) / BINS_PER_UNIT, self.low), self.high)


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
            "positives": _to_json(self.positives),
            "negatives": _to_json(self.negatives),
            "reasons": {name: count for name, count in self.reasons.items() if count},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave."""
        return cls(
            values["queries"],
            values["short"],
            _from_json(values["positives"]),
            _from_json(values["negatives"]),
            {name: values["reasons"].get(name, 0) for name in REASONS},
        )


def _to_json(counts: ScoreCounts) -> dict[str, Any]:
    # JSON knows no infinity: the bounds of no scores are left out.
    bounds = {"low": counts.low, "high": counts.high} if counts.n else {}
    bins = {str(place): count for place, count in counts.bins.items()}
    sums = {"n": counts.n, "total": counts.total, "total_squares": counts.total_squares}
    return {**sums, **bounds, "bins": bins}


def _from_json(values: Mapping[str, Any]) -> ScoreCounts:
    bins = {int(place): count for place, count in values["bins"].items()}
    return ScoreCounts(**{**values, "bins": bins})
