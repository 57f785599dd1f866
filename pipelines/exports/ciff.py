"""The Common Index File Format: an inverted index that PISA, Terrier and others import.

https://github.com/osirrc/ciff: a Header, the PostingsLists, the DocRecords, each a protobuf message
behind its length. The few messages are written by hand, as arrays of bytes: there are far too many
postings to make a Python object of each.

T terms, P postings, N documents.
"""

import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow.dataset as ds

from stx.pipelines.exports.feeds import impacts
from stx.pipelines.exports.new_file import new_lines
from stx.pipelines.exports.options import ExportOptions
from stx.pipelines.exports.vectors import Vectors, named, open_vectors, sparse_names
from stx_core.errors import InputError, SpecError
from stx_core.store.files.urls import redact

# Bytes of a posting are laid out in memory for so many at a time.
_POSTINGS_AT_ONCE = 1 << 20
_MAX_INT32 = 2**31 - 1

_DESCRIPTION = b"impacts of stx: sparse vectors, weights times 100"


@dataclass(frozen=True)
class _Counts:
    """Of each dimension: documents (V,) int64 and sum of impacts (V,) int64; and of documents."""

    documents: np.ndarray
    impacts: np.ndarray
    n_rows: int


def write_ciff(dataset: ds.FileSystemDataset, destination: str, options: ExportOptions) -> int:
    """Write an impact index: weights times 100 as integers; gives the documents.

    The vectors are read twice. Postings are sorted on the local disk, 8 bytes each; memory is a
    batch, and the longest list. An id that occurs twice is two documents. Copied columns have no
    place.

    Raises:
        SpecError: the name does not end in .ciff or .ciff.gz, or the destination exists.
        InputError: a weight is negative.
    """
    vectors = open_vectors(dataset, options, "ciff", "sparse")
    if not destination.endswith((".ciff", ".ciff.gz")):
        raise SpecError(f"{redact(destination)}: end the name in .ciff or .ciff.gz")
    names = sparse_names(options)
    with new_lines(destination) as stream, tempfile.TemporaryDirectory(prefix="stx-") as folder:
        counts = _count(vectors)
        records = os.path.join(folder, "records")
        postings = _sort_postings(vectors, counts, os.path.join(folder, "postings"), records)
        used = np.flatnonzero(counts.documents)
        terms = [str(term).encode() for term in named(used.astype(np.int32), names).to_pylist()]
        total = int(counts.impacts.sum())
        header = b"".join(
            _varint(field << 3) + _varint(value)
            for field, value in enumerate(
                (1, len(terms), counts.n_rows, len(terms), counts.n_rows, total), start=1
            )
        )
        header += _varint(7 << 3 | 1) + struct.pack("<d", total / max(1, counts.n_rows))
        header += _text(8, _DESCRIPTION)
        stream.write(_varint(len(header)) + header)
        starts = np.concatenate([[0], np.cumsum(counts.documents)])
        # Readers merge lists of several files, so terms are in the order of their bytes.
        for position in sorted(range(len(terms)), key=terms.__getitem__):
            term = used[position]
            own = postings[starts[term] : starts[term + 1]]
            for piece in _postings_list(terms[position], int(counts.impacts[term]), own):
                stream.write(piece)
        with open(records, "rb") as source:
            shutil.copyfileobj(source, stream)
    return counts.n_rows


def _count(vectors: Vectors) -> _Counts:
    documents, sums, n_rows = np.zeros(0, np.int64), np.zeros(0, np.int64), 0
    for batch in vectors.batches():
        _, indices, values = impacts(batch, "ciff")
        size = max(len(documents), int(indices.max(initial=-1)) + 1)
        padding = (0, size - len(documents))
        documents = np.pad(documents, padding) + np.bincount(indices, minlength=size)
        weights = np.bincount(indices, weights=values, minlength=size).astype(np.int64)
        sums = np.pad(sums, padding) + weights
        n_rows += len(batch)
    if n_rows > _MAX_INT32:
        raise InputError(f"{n_rows:,} documents; a file of CIFF holds {_MAX_INT32:,}")
    return _Counts(documents, sums, n_rows)


def _sort_postings(vectors: Vectors, counts: _Counts, path: str, records: str) -> np.ndarray:
    """Postings by dimension, then by document: (P, 2) int32, documents and impacts, on disk.

    The records of the documents are written on the way.
    """
    n_postings = int(counts.documents.sum())
    postings = np.memmap(path, np.int32, "w+", shape=(max(1, n_postings), 2))
    following = np.concatenate([[0], np.cumsum(counts.documents)])[:-1]
    first = 0
    with open(records, "wb") as stream:
        for batch in vectors.batches():
            offsets, indices, values = impacts(batch, "ciff")
            rows = np.repeat(np.arange(first, first + len(batch)), np.diff(offsets))
            sums = np.bincount(rows - first, weights=values, minlength=len(batch)).astype(np.int64)
            for row, (name, length) in enumerate(
                zip(batch.ids.to_pylist(), sums.tolist(), strict=True), start=first
            ):
                body = b"\x08" + _varint(row) + _text(2, name.encode())
                body += b"\x18" + _varint(length)
                stream.write(_varint(len(body)) + body)
            order = np.argsort(indices, kind="stable")
            indices, values, rows = indices[order], values[order], rows[order]
            seen, begins, lengths = np.unique(indices, return_index=True, return_counts=True)
            within = np.arange(len(indices)) - np.repeat(begins, lengths)
            places = following[indices] + within
            postings[places, 0], postings[places, 1] = rows, values
            following[seen] += lengths
            first += len(batch)
    return postings[:n_postings]


def _postings_list(term: bytes, total: int, postings: np.ndarray) -> Iterator[bytes]:
    """A PostingsList piece by piece: its length comes first, and it may be large."""
    documents = np.asarray(postings[:, 0], np.int64)
    gaps, values = np.diff(documents, prepend=0), np.asarray(postings[:, 1], np.int64)
    # Two tags, and a byte for each seven bits of a number, the first of which there always is.
    sizes = np.full(len(postings), 4, np.int64)
    for numbers in (gaps, values):
        for bits in (7, 14, 21, 28):
            sizes += numbers >> bits > 0
    head = _text(1, term) + b"\x10" + _varint(len(postings)) + b"\x18" + _varint(total)
    yield _varint(len(head) + int(sizes.sum()) + 2 * len(sizes)) + head
    for start in range(0, len(postings), _POSTINGS_AT_ONCE):
        chunk = slice(start, start + _POSTINGS_AT_ONCE)
        yield _posting_bytes(gaps[chunk], values[chunk], sizes[chunk])


def _posting_bytes(gaps: np.ndarray, values: np.ndarray, sizes: np.ndarray) -> bytes:
    """Posting messages: field 4 of their list; documents as gaps in field 1, impacts in field 2."""
    columns: list[tuple[np.ndarray, np.ndarray]] = []
    every = np.ones(len(gaps), bool)
    for tag, numbers in ((0x08, gaps), (0x10, values)):
        columns.append((np.full(len(gaps), tag, np.uint8), every))
        for byte in range(5):
            rest = numbers >> 7 * byte
            more = (rest >> 7) > 0
            columns.append(((rest & 0x7F | more * 0x80).astype(np.uint8), (rest > 0) | (byte == 0)))
    columns = [
        (np.full(len(gaps), 0x22, np.uint8), every),
        (sizes.astype(np.uint8), every),
        *columns,
    ]
    laid_out = np.stack([column for column, _ in columns], axis=1)
    data: bytes = laid_out[np.stack([used for _, used in columns], axis=1)].tobytes()
    return data


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def _text(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data
