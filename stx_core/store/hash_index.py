"""Index of hashes to rows of files: of texts that have a vector already, of ids that have a text.

An index is one Arrow IPC file. Its record batch number b holds the entries whose hash starts with
byte b, sorted by hash; the names of the files stand in the schema's metadata. So it is built a
256th at a time, and its readers map it into memory.
"""

import functools
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx_core.errors import DamagedFile, StoreError
from stx_core.store.data_file import hash_bytes, read_columns
from stx_core.store.digests import SIZE, blake2b
from stx_core.store.files.filesystem import download, list_names, upload
from stx_core.store.files.local_disk import own_folder, scratch_space
from stx_core.store.files.urls import LOCAL, join, local_path, redact, scheme

logger = logging.getLogger(__name__)

# numpy compares these bytes like memcmp does.
HASH = np.dtype(f"S{SIZE}")
_DIGITS = 2 * SIZE
_ENTRY = np.dtype([("hash", HASH), ("file", "<i4"), ("row", "<i4")])
_FIELDS = [
    pa.field("hash", pa.binary(SIZE)),
    pa.field("file", pa.int32()),
    pa.field("row", pa.int32()),
]
_PARTITIONS = 256

# 40 MB of entries between two visits of the partitions' files.
_ENTRIES_AT_ONCE = 1_000_000
_THREADS = 16
_FILES_AT_ONCE = 64
_MAX_AGE_S = 24 * 3600.0


class HashIndex:
    """An index, mapped into memory.

    Args:
        path: a local file made by `build_index`.
    """

    def __init__(self, path: str) -> None:
        self._reader = pa.ipc.open_file(pa.memory_map(path))
        self.files: list[str] = json.loads(self._reader.schema.metadata[b"files"])

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Look hashes up.

        Args:
            hashes: (N,) `HASH`.

        Returns:
            (N,) int32 positions in `files`, -1 where a hash is not in the index, and (N,) int64
            rows of these files.
        """
        files, rows = np.full(len(hashes), -1, np.int32), np.zeros(len(hashes), np.int64)
        for partition, places in _by_first_byte(hashes):
            entries = self._reader.get_batch(partition)
            indexed = _hashes(entries.column("hash"))
            if not len(indexed):
                continue
            at = np.minimum(np.searchsorted(indexed, hashes[places]), len(indexed) - 1)
            hit = indexed[at] == hashes[places]
            files[places[hit]] = entries.column("file").to_numpy()[at[hit]]
            rows[places[hit]] = entries.column("row").to_numpy()[at[hit]]
        return files, rows

    def sums(self) -> dict[int, int]:
        """By position in `files`: the sum of the hashes that are indexed there, modulo 2**64."""
        totals = np.zeros(len(self.files), np.uint64)
        for partition in range(self._reader.num_record_batches):
            entries = self._reader.get_batch(partition)
            heads = _hashes(entries.column("hash")).view(np.uint64).reshape(-1, SIZE // 8)[:, 1]
            np.add.at(totals, entries.column("file").to_numpy(), heads)
        counted = np.zeros(len(self.files), bool)
        for partition in range(self._reader.num_record_batches):
            counted[self._reader.get_batch(partition).column("file").to_numpy()] = True
        return {int(file): int(totals[file]) for file in np.flatnonzero(counted)}


def to_hashes(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """(N,) `HASH` of a column of 64 hexadecimal digits without nulls."""
    return np.frombuffer(bytes.fromhex("".join(column.to_pylist())), HASH)


def hash_ids(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """(N,) `HASH` of ids without nulls; the integer 1 and the string "1" are the same id here."""
    values = ids.cast(pa.string()).cast(pa.large_binary()).to_pylist()
    return np.frombuffer(b"".join(map(blake2b, values)), HASH)


def _hashes(column: pa.FixedSizeBinaryArray) -> np.ndarray:
    return np.frombuffer(column.buffers()[1] or b"", HASH)[column.offset :][: len(column)]


def _by_first_byte(hashes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """First bytes that occur, each with the positions of its hashes, in their order."""
    first = np.frombuffer(hashes.tobytes(), np.uint8).reshape(-1, HASH.itemsize)[:, 0]
    order = np.argsort(first, kind="stable")
    edges = np.searchsorted(first[order], np.arange(_PARTITIONS + 1))
    for partition in np.unique(first).tolist():
        yield partition, order[edges[partition] : edges[partition + 1]]


def build_index(root: str, files: Sequence[str], path: str, *, repeated: bool = False) -> None:
    """Index the rows of data files by their column ``content_hash``; of equal ones the first.

    Memory is bounded: entries go through 256 temporary files beside the index, and are sorted one
    file at a time.

    Args:
        root: the dataset.
        files: relative to it, or see `named`. Rows of damaged ones are left out, and so are hashes
            of an earlier stx.
        path: local file to write.
        repeated: index only hashes that are in several files.

    Raises:
        StoreError: a data file cannot be read.
    """
    write_index(files, path, _entries(root, files), repeated=repeated)


def named(file: str, checksum: str) -> str:
    """A data file with its checksum, in one word: who takes rows from it can check it."""
    return f"{checksum} {file}"


def name_of(entry: str) -> tuple[str, str]:
    """The file, relative to its dataset, and the checksum that `named` was given."""
    checksum, separator, file = entry.partition(" ")
    return (file, checksum) if separator else (entry, "")


def write_index(
    files: Sequence[str], path: str, entries: Iterable[np.ndarray], *, repeated: bool = False
) -> None:
    """Write an index of any files; of equal hashes the first entry, as in `build_index`.

    Args:
        files: what the reader is to know of each: its name, or more.
        path: local file to write.
        entries: see `to_entries`, files ascending; where `repeated`, of a file each hash once.
        repeated: index only hashes that are in several files.
    """
    with scratch_space(os.path.dirname(path)) as folder:
        partitions = [Path(folder, f"{number:02x}") for number in range(_PARTITIONS)]
        with ExitStack() as stack:
            opened = [stack.enter_context(partition.open("wb")) for partition in partitions]
            for batch in entries:
                for number, places in _by_first_byte(batch["hash"]):
                    opened[number].write(batch[places].tobytes())
        schema = pa.schema(_FIELDS, metadata={"files": json.dumps(list(files))})
        with pa.ipc.new_file(path, schema) as writer:
            for partition in partitions:
                firsts = _firsts(np.fromfile(partition, _ENTRY), repeated=repeated)
                hashes = pa.py_buffer(firsts["hash"].tobytes())
                columns = [
                    pa.Array.from_buffers(pa.binary(SIZE), len(firsts), [None, hashes]),
                    pa.array(np.ascontiguousarray(firsts["file"])),
                    pa.array(np.ascontiguousarray(firsts["row"])),
                ]
                writer.write_batch(pa.record_batch(columns, schema=schema))


def _entries(root: str, files: Sequence[str]) -> Iterator[np.ndarray]:
    """Entries of all files in their order, a million or so at a time; of a file each hash once."""

    def read(number: int) -> np.ndarray:
        url = join(root, name_of(files[number])[0])
        try:
            column = read_columns(url, ["content_hash"]).column(0)
        except DamagedFile as error:
            logger.warning("its rows are encoded again: %s", error)
            return np.empty(0, _ENTRY)
        # Earlier versions of stx wrote 32 digits, of xxh3: they prove nothing.
        is_hash = pc.equal(pc.binary_length(column.cast(pa.string())), _DIGITS)
        rows = np.flatnonzero(pc.fill_null(is_hash, False).to_numpy())
        return _firsts(to_entries(to_hashes(column.take(pa.array(rows))), number, rows))

    waiting: list[np.ndarray] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        # A group at a time: the pool's map reads on, however slowly its results are taken.
        for start in range(0, len(files), _FILES_AT_ONCE):
            group = range(start, min(start + _FILES_AT_ONCE, len(files)))
            for entries in pool.map(read, group):
                waiting.append(entries)
                if sum(map(len, waiting)) >= _ENTRIES_AT_ONCE:
                    yield np.concatenate(waiting)
                    waiting = []
    if waiting:
        yield np.concatenate(waiting)


def to_entries(hashes: np.ndarray, file: int, rows: np.ndarray) -> np.ndarray:
    """(N,) entries of an index.

    Args:
        hashes: (N,) `HASH`.
        file: position of their file.
        rows: (N,) rows of that file, below 2**31.
    """
    entries = np.empty(len(hashes), _ENTRY)
    entries["hash"], entries["file"], entries["row"] = hashes, file, rows
    return entries


def _firsts(entries: np.ndarray, *, repeated: bool = False) -> np.ndarray:
    """Of each hash, or of each that is repeated, the first entry, sorted by hash."""
    _, first, counts = np.unique(entries["hash"], return_index=True, return_counts=True)
    return entries[first[counts > 1] if repeated else first]


def publish_index(path: str, folder: str) -> str:
    """Put an index where the workers of a run find it, under a name that says its content.

    Args:
        path: the local index.
        folder: of the run.

    Returns:
        Its URL.
    """
    url = join(folder, f"{index_name(HashIndex(path).files)}-{hash_bytes(path)[1]}.arrow")
    upload(path, url)
    return url


def is_sound(url: str) -> bool:
    """Tell whether the bytes of a published index are those that its name says."""
    checksum = url.rsplit("/", 1)[-1].removesuffix(".arrow").partition("-")[2]
    try:
        return hash_bytes(url)[1] == checksum
    except FileNotFoundError:
        return False


def published_index(folder: str, files: Sequence[str]) -> str | None:
    """URL of the index of these data files that an earlier start has published, if one did."""
    head = f"{index_name(files)}-"
    urls = [join(folder, name) for name in list_names(folder) if name.startswith(head)]
    for url in urls:
        if is_sound(url):
            return url
        logger.warning("%s: a damaged index, building it again", redact(url))
    return None


@functools.lru_cache(maxsize=4)
def open_index(url: str) -> HashIndex:
    """Open a published index; a remote one is fetched once to this machine.

    Raises:
        StoreError: it cannot be fetched whole.
    """
    if scheme(url) != LOCAL:
        return HashIndex(_fetched(url))
    # One that was not published has no checksum in its name.
    if "-" in url.rsplit("/", 1)[-1] and not is_sound(url):
        raise StoreError(f"{redact(url)}: a damaged index of hashes; run again, it is built again")
    return HashIndex(local_path(url))


def _fetched(url: str) -> str:
    """Local copy of a published index; several processes may fetch it at once."""
    folder = own_folder("stx-index")
    name = url.rsplit("/", 1)[-1]
    path = os.path.join(folder, name)
    if os.path.exists(path):
        os.utime(path)
        return path
    # Copies that nobody opened for a day; who has one mapped keeps its pages.
    for entry in os.scandir(folder):
        with suppress(OSError):
            if entry.is_file() and time.time() - entry.stat().st_mtime > _MAX_AGE_S:
                os.unlink(entry.path)
    with scratch_space(folder) as scratch:
        part = os.path.join(scratch, name)
        download(url, part)
        if not is_sound(part):
            raise StoreError(
                f"{redact(url)}: its bytes do not match its name; run again, it is built again"
            )
        # Whole or absent for everybody else: no lock is needed.
        os.replace(part, path)
    return path


def index_name(files: Sequence[str]) -> str:
    """Name of the index of some files: 32 hexadecimal digits."""
    return blake2b("\n".join(files).encode()).hex()[:32]
