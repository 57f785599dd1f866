"""Statistics of what was encoded: small, and those of units add up to those of a snapshot. Pure.

A unit's writer puts them into the unit's record; nothing reads a whole output again.
"""

import base64
import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from stx_core.store.schema import dense_matrix, sparse_csr

# Characters of each text that are looked at for its scripts.
_FIRST_CHARACTERS = 256

# Texts of 2**18 characters and more are in the last bin.
_LENGTH_BINS = 20

# Smallest text hashes that are kept: their counts give the share of repeated texts to within some
# 9 % points, and 32 of them cost 256 bytes a unit.
_SMALLEST = 32
_HASH_BYTES = 6

# A bin that is empty on one side would make the index infinite.
_LEAST_SHARE = 1e-4

SCRIPTS = (
    "ascii_letters", "accented_latin", "greek", "cyrillic", "hebrew_arabic", "indic",
    "southeast_asian", "hangul", "kana", "han", "other", "digits", "symbols", "broken",
)  # fmt: skip
"""What characters are counted as. Broken: controls, private use, U+FFFD: texts decoded wrongly."""

# The first code point of each run of Unicode blocks, and what it is (coarse, from Blocks.txt).
_RUNS = (
    (0x0, "broken"), (0x9, ""), (0xE, "broken"), (0x20, ""), (0x21, "symbols"), (0x30, "digits"),
    (0x3A, "symbols"), (0x41, "ascii_letters"), (0x5B, "symbols"), (0x61, "ascii_letters"),
    (0x7B, "symbols"), (0x7F, "broken"), (0xA0, ""), (0xA1, "symbols"), (0xC0, "accented_latin"),
    (0x2B0, "symbols"), (0x370, "greek"), (0x400, "cyrillic"), (0x530, "other"),
    (0x590, "hebrew_arabic"), (0x780, "other"), (0x8A0, "hebrew_arabic"), (0x900, "indic"),
    (0xE00, "southeast_asian"), (0xF00, "other"), (0x1000, "southeast_asian"), (0x10A0, "other"),
    (0x1100, "hangul"), (0x1200, "other"), (0x1780, "southeast_asian"), (0x1800, "other"),
    (0x1E00, "accented_latin"), (0x1F00, "greek"), (0x2000, "symbols"), (0x2C00, "other"),
    (0x2E80, "han"), (0x3000, "symbols"), (0x3040, "kana"), (0x3100, "han"), (0x3130, "hangul"),
    (0x3190, "han"), (0x31F0, "kana"), (0x3200, "symbols"), (0x3400, "han"), (0xA000, "other"),
    (0xA640, "cyrillic"), (0xA6A0, "other"), (0xA960, "hangul"), (0xA980, "other"),
    (0xAC00, "hangul"), (0xD800, "broken"), (0xF900, "han"), (0xFB00, "other"),
    (0xFB1D, "hebrew_arabic"), (0xFE00, "symbols"), (0xFE70, "hebrew_arabic"), (0xFEFF, "broken"),
    (0xFF00, "symbols"), (0xFF66, "kana"), (0xFFA0, "hangul"), (0xFFE0, "symbols"),
    (0xFFF0, "broken"), (0x10000, "other"), (0x1F000, "symbols"), (0x20000, "han"),
    (0x323B0, "other"), (0xE0000, "broken"),
)  # fmt: skip


class SmallestValues(TypedDict):
    """Packed hashes in base64, and the counts above one by position."""

    hashes: str
    repeated: dict[str, int]


class StatisticsValues(TypedDict):
    """JSON values of `Statistics`."""

    rows: int
    not_finite: int
    zeros: int
    norms: float
    squares: float
    texts: int
    vectors: int
    lengths: list[int]
    scripts: list[int]
    smallest: SmallestValues


@dataclass(frozen=True)
class Statistics:
    """Of the rows of one output in a unit, or in many.

    Attributes:
        rows: that have a vector.
        not_finite: rows that were quarantined because theirs was not finite.
        zeros: vectors that are all zero.
        norms: sum of the norms.
        squares: sum of their squares.
        texts: different texts, counted per unit.
        vectors: different vectors of these texts, counted per unit.
        lengths: texts by length in characters: 0, 1, 2 to 3, 4 to 7 …; not in tokens, which
            another model counts differently.
        scripts: characters of the texts' beginnings by `SCRIPTS`.
        smallest: the smallest text hashes with the number of rows that have them, ascending.
            A hash that is among the smallest of all rows is among those of each unit that it is
            in, so these numbers are exact: a random sample of texts with all their repetitions.
    """

    rows: int
    not_finite: int
    zeros: int
    norms: float
    squares: float
    texts: int
    vectors: int
    lengths: tuple[int, ...]
    scripts: tuple[int, ...]
    smallest: tuple[tuple[int, int], ...]

    def to_json(self) -> StatisticsValues:
        """As JSON values, some 500 bytes of them."""
        hashes = np.array([text_hash for text_hash, _ in self.smallest], ">u8")
        packed = hashes.view(np.uint8).reshape(-1, 8)[:, 8 - _HASH_BYTES :].tobytes()
        return {
            "rows": self.rows,
            "not_finite": self.not_finite,
            "zeros": self.zeros,
            "norms": self.norms,
            "squares": self.squares,
            "texts": self.texts,
            "vectors": self.vectors,
            "lengths": list(self.lengths),
            "scripts": list(self.scripts),
            "smallest": {
                "hashes": base64.b64encode(packed).decode(),
                "repeated": {str(i): n for i, (_, n) in enumerate(self.smallest) if n > 1},
            },
        }

    def __add__(self, other: "Statistics") -> "Statistics":
        """Statistics of the rows of both."""
        smallest = Counter(dict(self.smallest))
        smallest.update(dict(other.smallest))
        return Statistics(
            rows=self.rows + other.rows,
            not_finite=self.not_finite + other.not_finite,
            zeros=self.zeros + other.zeros,
            norms=self.norms + other.norms,
            squares=self.squares + other.squares,
            texts=self.texts + other.texts,
            vectors=self.vectors + other.vectors,
            lengths=tuple(np.add(self.lengths, other.lengths).tolist()),
            scripts=tuple(np.add(self.scripts, other.scripts).tolist()),
            smallest=tuple(sorted(smallest.items())[:_SMALLEST]),
        )

    @property
    def mean_norm(self) -> float:
        """Mean norm of the vectors."""
        return self.norms / max(1, self.rows)

    @property
    def norm_spread(self) -> float:
        """Standard deviation of the norms."""
        variance = self.squares / max(1, self.rows) - self.mean_norm**2
        return float(np.sqrt(max(0.0, variance)))

    @property
    def repeated_texts(self) -> float:
        """Share of rows whose text an earlier row has; exact for few texts, else estimated."""
        if not self.rows:
            return 0.0
        estimate = 1 - len(self.smallest) / sum(count for _, count in self.smallest)
        # Repetitions within a unit are known.
        return max(estimate, 1 - self.texts / self.rows)

    @property
    def repeated_vectors(self) -> float:
        """Share of texts whose vector another text of the same unit has."""
        return 1 - self.vectors / self.texts if self.texts else 0.0


def from_json(values: Mapping[str, Any] | None) -> Statistics | None:
    """Read `Statistics.to_json`; None for nothing, and for what another version of stx wrote."""
    if not values or values.keys() != Statistics.__dataclass_fields__.keys():
        return None
    packed = np.frombuffer(base64.b64decode(values["smallest"]["hashes"]), np.uint8)
    hashes = np.zeros((len(packed) // _HASH_BYTES, 8), np.uint8)
    hashes[:, 8 - _HASH_BYTES :] = packed.reshape(-1, _HASH_BYTES)
    repeated = values["smallest"]["repeated"]
    smallest = [
        (text_hash, repeated.get(str(i), 1))
        for i, text_hash in enumerate(hashes.view(">u8")[:, 0].tolist())
    ]
    counts = {name: tuple(values[name]) for name in ("lengths", "scripts")}
    return Statistics(**{**values, **counts, "smallest": tuple(smallest)})


def without_texts(values: Mapping[str, Any], hashes: Sequence[str]) -> Mapping[str, Any]:
    """Statistics without rows that are gone: of these no number of rows and no hash is left.

    Histograms and norms still count them: their texts are not there to be measured.

    Args:
        values: see `Statistics.to_json`.
        hashes: (N,) content hashes of the rows that are gone.

    Returns:
        JSON values; {} for what another version of stx wrote.
    """
    statistics = from_json(values)
    if statistics is None:
        return {}
    gone = Counter(int(digits[: 2 * _HASH_BYTES], 16) for digits in hashes)
    smallest = ((text_hash, n - gone[text_hash]) for text_hash, n in statistics.smallest)
    left = replace(
        statistics,
        rows=max(0, statistics.rows - len(hashes)),
        smallest=tuple((text_hash, n) for text_hash, n in smallest if n > 0),
    )
    return dict(left.to_json())


def measure(
    texts: pa.ChunkedArray, hashes: pa.ChunkedArray, vectors: pa.ChunkedArray, not_finite: int
) -> Statistics:
    """Statistics of the good rows of a unit.

    Args:
        texts: (N,) string.
        hashes: (N,) content hashes, 32 hexadecimal digits.
        vectors: (N,) of an output, dense or sparse.
        not_finite: rows that are missing here because their vector is not finite.
    """
    squares, digests = _squares_and_digests(vectors)
    hexes = hashes.to_pylist()
    vector_by_text = dict(zip(reversed(hexes), reversed(digests), strict=True))
    # The exponent of frexp is the number of binary digits.
    _, digits = np.frexp(pc.utf8_length(texts).to_numpy())
    lengths = np.bincount(np.minimum(digits, _LENGTH_BINS - 1), minlength=_LENGTH_BINS)
    starts = pc.utf8_slice_codeunits(texts, 0, _FIRST_CHARACTERS)
    points = np.frombuffer("".join(starts.to_pylist()).encode("utf-32-le"), np.uint32)
    scripts = np.bincount(_script_of_points()[points], minlength=len(SCRIPTS) + 1)
    smallest = Counter(int(digits[: 2 * _HASH_BYTES], 16) for digits in hexes)
    return Statistics(
        rows=len(texts),
        not_finite=not_finite,
        zeros=int((squares == 0).sum()),
        norms=float(np.sqrt(squares).sum()),
        squares=float(squares.sum()),
        texts=len(vector_by_text),
        vectors=len(set(vector_by_text.values())),
        lengths=tuple(lengths.tolist()),
        scripts=tuple(scripts[: len(SCRIPTS)].tolist()),
        smallest=tuple(sorted(smallest.items())[:_SMALLEST]),
    )


def _squares_and_digests(vectors: pa.ChunkedArray) -> tuple[np.ndarray, list[int]]:
    """(N,) float64 squared norms, and N hashes: equal for equal vectors."""
    if pa.types.is_struct(vectors.type):
        offsets, indices, values = sparse_csr(vectors)
        sums = np.concatenate([[0.0], np.cumsum(values.astype(np.float64) ** 2)])
        ends = offsets.tolist()
        digests = [
            xxhash.xxh3_64_intdigest(indices[a:b].tobytes() + values[a:b].tobytes())
            for a, b in zip(ends, ends[1:], strict=False)
        ]
        return sums[offsets[1:]] - sums[offsets[:-1]], digests
    matrix = dense_matrix(vectors)
    numbers = matrix.astype(np.float32, copy=False)
    squares = np.einsum("nd,nd->n", numbers, numbers, dtype=np.float64)
    return squares, list(map(xxhash.xxh3_64_intdigest, np.ascontiguousarray(matrix)))


@functools.cache
def _script_of_points() -> np.ndarray:
    """(0x110000,) uint8 positions in `SCRIPTS` of all code points; behind its end for spaces."""
    starts = [start for start, _ in _RUNS]
    runs = np.diff([*starts, 0x110000])
    kinds = [SCRIPTS.index(kind) if kind else len(SCRIPTS) for _, kind in _RUNS]
    return np.repeat(np.array(kinds, np.uint8), runs)


def merge(parts: Iterable[Statistics]) -> Statistics | None:
    """Statistics of all rows together, in any order; None for none."""
    total: Statistics | None = None
    for part in parts:
        total = part if total is None else total + part
    return total


def merge_texts(texts: Iterable[str | None]) -> Statistics | None:
    """Add up the statistics of manifest rows, which are JSON texts there."""
    parts = (from_json(json.loads(text)) for text in texts if text)
    return merge(part for part in parts if part is not None)


def stability_index(before: Sequence[int], after: Sequence[int]) -> float:
    """Population stability index of two histograms: 0 for equal shares, above 0.25 a shift."""
    p, q = (
        np.maximum(np.divide(counts, max(1, sum(counts))), _LEAST_SHARE)
        for counts in (before, after)
    )
    return float(((q - p) * np.log(q / p)).sum())


def overlap(before_SS: np.ndarray, after_SS: np.ndarray, k: int) -> float:
    """Mean share of the k nearest neighbours that two similarity matrices have in common.

    Args:
        before_SS: (S, S) similarities of a sample, higher is nearer.
        after_SS: (S, S) of the same rows.
        k: less than S.
    """
    near = []
    for similarities_SS in (before_SS, after_SS):
        distances_SS = -similarities_SS
        np.fill_diagonal(distances_SS, np.inf)
        # Stable: equal similarities are taken in the order of the rows, in both matrices.
        near.append(np.argsort(distances_SS, axis=1, kind="stable")[:, :k].tolist())
    shared = sum(len(set(a) & set(b)) for a, b in zip(*near, strict=True))
    return shared / (k * len(before_SS))
