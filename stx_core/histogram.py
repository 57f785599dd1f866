"""Histograms: what is known of many numbers without keeping them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self, TypedDict

import numpy as np


class HistogramValues(TypedDict, total=False):
    """JSON values of a `Histogram`: bins by their number in digits; no bounds of no numbers."""

    n: int
    total: float
    total_squares: float
    low: float
    high: float
    bins: dict[str, int]


@dataclass(frozen=True)
class Histogram(ABC):
    """Counts of numbers by bin. Merging is exact, in any order.

    Attributes:
        n: how many.
        total: their sum, total_squares that of their squares; rounded as floats are.
        low: the lowest, inf of none.
        high: the highest, -inf of none.
        bins: how many lie in [edge(i), edge(i + 1)), by i.
    """

    n: int = 0
    total: float = 0.0
    total_squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    bins: Mapping[int, int] = field(default_factory=dict)

    @staticmethod
    @abstractmethod
    def bin_indices(values: np.ndarray) -> np.ndarray:
        """The bins of (N,) float64 numbers, (N,) integral."""

    @staticmethod
    @abstractmethod
    def edge(bin_index: int) -> float:
        """The lowest number of a bin."""

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        """Count (N,) numbers."""
        if not len(values):
            return cls()
        exact = values.astype(np.float64)
        bins, counts = np.unique(cls.bin_indices(exact).astype(np.int64), return_counts=True)
        return cls(
            n=len(exact),
            total=float(exact.sum()),
            total_squares=float((exact**2).sum()),
            low=float(exact.min()),
            high=float(exact.max()),
            bins=dict(zip(bins.tolist(), counts.tolist(), strict=True)),
        )

    def __add__(self, added: Self) -> Self:
        """Count both."""
        bins = dict(self.bins)
        for index, count in added.bins.items():
            bins[index] = bins.get(index, 0) + count
        return type(self)(
            n=self.n + added.n,
            total=self.total + added.total,
            total_squares=self.total_squares + added.total_squares,
            low=min(self.low, added.low),
            high=max(self.high, added.high),
            bins=dict(sorted(bins.items())),
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
        """A quantile: the middle of its bin, and never outside of low and high; NaN of none."""
        if not self.n:
            return math.nan
        bin_indices = sorted(self.bins)
        counts = np.cumsum([self.bins[bin_index] for bin_index in bin_indices])
        bin_index = bin_indices[int(np.searchsorted(counts, share * (self.n - 1), side="right"))]
        middle = (self.edge(bin_index) + self.edge(bin_index + 1)) / 2
        return min(max(middle, self.low), self.high)

    def to_json(self) -> HistogramValues:
        """The counts as plain values; `from_json` reads them back."""
        values = HistogramValues(n=self.n, total=self.total, total_squares=self.total_squares)
        # JSON knows no infinity: the bounds of no numbers are left out.
        if self.n:
            values |= {"low": self.low, "high": self.high}
        # Last: mined snapshots hold the text of it, and the same work gives the same file.
        values["bins"] = {str(bin_index): count for bin_index, count in self.bins.items()}
        return values

    @classmethod
    def from_json(cls, values: HistogramValues) -> Self:
        """Read what `to_json` gave; no values are no numbers."""
        bins = {int(bin_index): count for bin_index, count in values.get("bins", {}).items()}
        return cls(
            n=values.get("n", 0),
            total=values.get("total", 0.0),
            total_squares=values.get("total_squares", 0.0),
            low=values.get("low", math.inf),
            high=values.get("high", -math.inf),
            bins=bins,
        )


# Few enough that the counts of a unit are some hundred bytes.
_BINS_PER_OCTAVE = 8


class Lengths(Histogram):
    """Counts of integers from 0: exact to 16, then eight bins for each doubling."""

    @staticmethod
    def bin_indices(values: np.ndarray) -> np.ndarray:
        """The bins of (N,) integers."""
        octave = np.floor(np.log2(np.maximum(values, _BINS_PER_OCTAVE) / _BINS_PER_OCTAVE))
        bin_indices: np.ndarray = _BINS_PER_OCTAVE * octave + np.floor(values / 2**octave)
        return bin_indices

    @staticmethod
    def edge(bin_index: int) -> float:
        """One half below the lowest integer of a bin: so each lies in the middle of its own."""
        octave = max(0, bin_index // _BINS_PER_OCTAVE - 1)
        return float((bin_index - _BINS_PER_OCTAVE * octave) * 2**octave) - 0.5


class Norms(Histogram):
    """Counts of finite numbers from 0 in bins that grow with them: bin i is around 2^(i / 8) - 1.

    What should be 1 lies in the middle of a bin, however it was rounded.
    """

    @staticmethod
    def bin_indices(values: np.ndarray) -> np.ndarray:
        """The bins of (N,) numbers."""
        bin_indices: np.ndarray = np.rint(_BINS_PER_OCTAVE * np.log2(1 + values))
        return bin_indices

    @staticmethod
    def edge(bin_index: int) -> float:
        """The lowest number of a bin."""
        return max(0.0, float(2 ** ((bin_index - 0.5) / _BINS_PER_OCTAVE) - 1))


_SCORE_BINS_PER_OCTAVE = 32


class Scores(Histogram):
    """Counts of finite numbers of both signs: bin i is around sign(i) (2^(|i| / 32) - 1).

    Cosines lie in bins of 2 to 4 hundredths, and logits of any size in a few hundred bins.
    """

    @staticmethod
    def bin_indices(values: np.ndarray) -> np.ndarray:
        """The bins of (N,) numbers."""
        sizes = np.rint(_SCORE_BINS_PER_OCTAVE * np.log2(1 + np.abs(values)))
        bin_indices: np.ndarray = np.copysign(sizes, values)
        return bin_indices

    @staticmethod
    def edge(bin_index: int) -> float:
        """The lowest number of a bin."""
        size = 2 ** (abs(bin_index - 0.5) / _SCORE_BINS_PER_OCTAVE) - 1
        return float(math.copysign(size, bin_index - 0.5))
