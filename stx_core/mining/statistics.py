"""Distribution of the scores of positives and negatives: exact for one table, or mergeable."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self, TypedDict

import numpy as np
import pyarrow as pa

from stx_core.histogram import Histogram, HistogramValues
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
    columns = {"measure": pa.array(MEASURES)}
    for name, scores in sides.items():
        n, ordered = len(scores), np.sort(scores.astype(np.float64))
        values = [0, *[math.nan] * 8]
        if n:
            std = ordered.std(ddof=1) if n > 1 else math.nan
            median, quartiles = ordered[(n - 1) // 2], np.quantile(ordered, [0.25, 0.5, 0.75])
            values = [n, ordered.mean(), median, std, ordered[0], *quartiles, ordered[-1]]
        columns[name] = pa.array(values, pa.float64())
    return pa.table(columns)


class ScoreCounts(Histogram):
    """Counts of scores in bins of 1/64."""

    @staticmethod
    def bin_indices(values: np.ndarray) -> np.ndarray:
        """The bins of (N,) scores."""
        bin_indices: np.ndarray = np.floor(values * BINS_PER_UNIT)
        return bin_indices.clip(-_FARTHEST_BIN, _FARTHEST_BIN)

    @staticmethod
    def edge(bin_index: int) -> float:
        """The lowest score of a bin."""
        return bin_index / BINS_PER_UNIT


class MiningValues(TypedDict):
    """JSON values of `MiningCounts`; reasons that rejected none are left out."""

    queries: int
    short: int
    positives: HistogramValues
    negatives: HistogramValues
    reasons: dict[str, int]


@dataclass(frozen=True)
class MiningCounts:
    """Numbers of a mining run, which add up over blocks of queries.

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
            queries=len(negatives),
            short=int((n_negative < num_negatives).sum()),
            positives=ScoreCounts.of(flat(negatives["positive_scores"])[1].to_numpy()),
            negatives=ScoreCounts.of(scores.to_numpy()),
            reasons=dict(zip(REASONS, counts.tolist(), strict=True)),
        )

    def __add__(self, added: "MiningCounts") -> "MiningCounts":
        """Count both blocks."""
        return MiningCounts(
            queries=self.queries + added.queries,
            short=self.short + added.short,
            positives=self.positives + added.positives,
            negatives=self.negatives + added.negatives,
            reasons={
                name: self.reasons.get(name, 0) + added.reasons.get(name, 0) for name in REASONS
            },
        )

    @property
    def candidates(self) -> int:
        """Number of candidates."""
        return self.negatives.n + sum(self.reasons.values())

    def to_json(self) -> MiningValues:
        """The counts as plain values; `from_json` reads them back."""
        return {
            "queries": self.queries,
            "short": self.short,
            "positives": self.positives.to_json(),
            "negatives": self.negatives.to_json(),
            "reasons": {name: count for name, count in self.reasons.items() if count},
        }

    @classmethod
    def from_json(cls, values: MiningValues) -> Self:
        """Read what `to_json` gave."""
        return cls(
            queries=values["queries"],
            short=values["short"],
            positives=ScoreCounts.from_json(values["positives"]),
            negatives=ScoreCounts.from_json(values["negatives"]),
            reasons={name: values["reasons"].get(name, 0) for name in REASONS},
        )
