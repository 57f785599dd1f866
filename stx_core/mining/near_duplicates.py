"""Likeness of two texts, by the byte sequences that both contain."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Bytes of a shingle: one machine word, so that a shingle is its own hash. About a word and a
# half of English, or two and a half characters of Chinese.
SHINGLE_BYTES = 8
# Text of one side that is compared at once; its shingles take some twenty times as much memory.
_BLOCK_BYTES = 4 * 2**20
_ODD = np.uint64(0x9E3779B97F4A7C15)


def normalize_texts(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lower case, and runs of white space as one space, none at the ends."""
    spaced = pc.replace_substring_regex(pc.utf8_lower(texts), r"\s+", " ")
    return pc.utf8_trim(spaced, " ")


def jaccard(x: pa.ChunkedArray, y: pa.ChunkedArray) -> np.ndarray:
    """Likeness of text i of `x` with text i of `y`: (N,) float64 from 0 to 1.

    The share of 8-byte sequences of the normalised texts that both contain; texts shorter than
    that count as one sequence. Two empty texts are alike (1). Exact, but for hash collisions of
    64 bits; reads 3 to 4 MB of text a second (measured on SciFact, one core).
    """
    x, y = normalize_texts(x), normalize_texts(y)
    sizes = pc.add(pc.binary_length(x), pc.binary_length(y)).to_numpy().astype(np.int64)
    blocks = np.cumsum(sizes) // _BLOCK_BYTES
    edges = [*np.flatnonzero(np.diff(blocks, prepend=-1)), len(x)]
    likeness = np.zeros(len(x))
    for start, stop in pairwise(edges):
        block = slice(start, stop)
        pair_x, keys_x = _shingles(x[block])
        pair_y, keys_y = _shingles(y[block])
        pairs, keys = np.concatenate([pair_x, pair_y]), np.concatenate([keys_x, keys_y])
        order = np.argsort(keys)
        # Each side holds a key once, so a key that follows itself stands on both.
        shared = pairs[order][1:][keys[order][1:] == keys[order][:-1]]
        both = np.bincount(shared, minlength=stop - start)
        likeness[block] = both / (np.bincount(pairs, minlength=stop - start) - both)
    return likeness


def _shingles(texts: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct shingles of each text: (M,) int64 row of the text and (M,) uint64 key.

    Keys of equal shingles in different rows differ.
    """
    lengths = pc.binary_length(texts).to_numpy().astype(np.int64)
    # Short texts are filled up with zeros to one shingle.
    room = np.maximum(lengths, SHINGLE_BYTES)
    starts = np.cumsum(room) - room
    data = np.zeros(int(room.sum()), np.uint8)
    joined = np.frombuffer("".join(texts.to_pylist()).encode(), np.uint8)
    within = np.arange(len(joined)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    data[np.repeat(starts, lengths) + within] = joined

    rows = np.repeat(np.arange(len(room)), room - SHINGLE_BYTES + 1)
    counts = room - SHINGLE_BYTES + 1
    first = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    windows = np.lib.stride_tricks.sliding_window_view(data, SHINGLE_BYTES)
    words = np.ascontiguousarray(windows[np.repeat(starts, counts) + first]).view(np.uint64)[:, 0]
    keys, first_rows = np.unique(mix(words ^ mix(rows.astype(np.uint64) * _ODD)), return_index=True)
    return rows[first_rows], keys


def mix(values: np.ndarray) -> np.ndarray:
    """Scramble (N,) uint64 so that all bits depend on all bits (splitmix64's last steps)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))
