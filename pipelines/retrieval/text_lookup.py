"""Texts by id, out of a corpus of any size: an index of the ids, and reads of single row groups.

The driver reads the ids once and writes an index of id to shard and row; the texts stay where they
are. Workers look the ids of their unit up, and read only row groups that hold one of them (of files
of lines: some thousand rows around it). So no node holds more texts than those of a unit.
"""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.planning.corpus import Corpus, filters, ids_of, limits, list_corpus, texts_of
from stx.pipelines.planning.mapping import schema_of_files, through_map
from stx.pipelines.spec.parts import Inputs
from stx_core.errors import InputError
from stx_core.store.corpus.readers import read_rows, read_some
from stx_core.store.corpus.shards import Mark, Shard
from stx_core.store.corpus.units import Unit, plan_units
from stx_core.store.files.urls import redact
from stx_core.store.hash_index import (
    hash_ids,
    index_name,
    open_index,
    publish_index,
    published_index,
    to_entries,
    write_index,
)
from stx_core.store.sealed import canonical_json

# Rows of which ids are read at once. Of Parquet the column of ids alone; of others whole lines.
_ID_ROWS = {"parquet": 262_144}
_LINE_ROWS = 8192
_THREADS = 8
_UNITS_AT_ONCE = 32

# Each holds the texts of some thousand rows, or of a row group.
_READERS = 4

_MAX_SHARD_ROWS = 2**31 - 1


@dataclass(frozen=True)
class TextSource:
    """Place of the texts of a corpus; small and picklable, every worker has a copy.

    Attributes:
        inputs: the corpus.
        index: of its ids, see `hash_index`: a local path, or the URL where it is published.
        schema: types of the corpus's text columns.
    """

    inputs: Inputs
    index: str
    schema: pa.Schema


def index_texts(
    inputs: Inputs, scratch: str, corpus: Corpus | None = None, published: str | None = None
) -> TextSource:
    """Index the ids of a corpus, in bounded memory. Of rows with equal ids the first counts.

    Rows that the filters leave out, that cannot be read or that have no id are not in the index.

    Args:
        inputs: the corpus.
        scratch: local folder for the index.
        corpus: as `list_corpus` lists it; None to do that here.
        published: folder where an earlier start of the run may have published the index.

    Raises:
        InputError: the corpus, or a file of it, cannot be used.
    """
    corpus = corpus or list_corpus(inputs)
    shards = [shard for shard in corpus.shards if shard.n_rows]
    # All of a shard that its readers need, and what decides which of its rows are indexed.
    rows = inputs.model_dump(mode="json", include={"id_column", "filter", "max_text_bytes"})
    files = []
    for shard in shards:
        values = asdict(replace(shard, schema=pa.schema([]), modified_s=None, profiles=None))
        del values["schema"], values["profiles"]
        files.append(canonical_json({"shard": values, "rows": rows}).decode())
    schema = corpus.schema
    if inputs.map is None:
        schema = pa.schema([schema.field(name) for name in inputs.text_columns])
    if published and (url := published_index(published, files)):
        return TextSource(inputs, url, schema)
    path = os.path.join(scratch, f"{index_name(files)}.arrow")
    if not os.path.exists(path):
        write_index(files, path, _entries(shards, corpus.schema, inputs))
    return TextSource(inputs, path, schema)


def publish_texts(source: TextSource, folder: str) -> TextSource:
    """Put the index into a folder where the workers of all machines find it."""
    if source.index.startswith(folder):
        return source
    return replace(source, index=publish_index(source.index, folder))


def fetch_texts(source: TextSource, ids: pa.Array) -> pa.Array:
    """Read the texts of some ids; each row group once, and only those with such a row.

    The number 1 and the string "1" are the same id: files of candidates have strings only. Of a
    corpus without an id column the ids are those that `encode` gives, of shard and row number.

    Args:
        source: published.
        ids: (N,) strings or integers, in any order, repeated or null.

    Returns:
        (N,) string; null where the id is null or unknown, or its text is null or unreadable.

    Raises:
        InputError: a shard changed since it was indexed, or cannot be read.
    """
    encoded = ids.dictionary_encode()
    index = open_index(source.index)
    files, rows = index.find(hash_ids(encoded.dictionary))
    order = np.lexsort((rows, files))
    order = order[files[order] >= 0]
    groups = [group for group in np.split(order, np.flatnonzero(np.diff(files[order])) + 1)
              if len(group)]  # fmt: skip
    inputs = source.inputs

    def read(group: np.ndarray) -> tuple[np.ndarray, pa.ChunkedArray]:
        """Texts of a shard, and the place in them of each row of the group, -1 for none."""
        shard, of_group = _shard(index.files[files[group[0]]]), rows[group]
        columns = schema_of_files(source.schema)
        subset = read_some(shard, columns, of_group, *limits(inputs))
        subset = through_map(subset, source.schema, inputs, redact(shard.url))
        numbers = subset.row_numbers
        if not len(numbers):
            return np.full(len(group), -1), pa.chunked_array([], pa.string())
        places = np.minimum(np.searchsorted(numbers, of_group), len(numbers) - 1)
        texts = texts_of(subset.table, inputs).cast(pa.string())
        return np.where(numbers[places] == of_group, places, -1), texts

    # Row i of the result is text choice[i] of all that were read.
    choice, n_read, texts = np.full(len(files), -1, np.int64), 0, []
    with ThreadPoolExecutor(_READERS) as pool:
        for group, (places, column) in zip(groups, pool.map(read, groups), strict=True):
            choice[group] = np.where(places < 0, -1, n_read + places)
            n_read += len(column)
            texts += column.chunks
    all_texts = pa.chunked_array(texts, pa.string()).combine_chunks()
    distinct = all_texts.take(pa.array(choice, mask=choice < 0))
    return distinct.take(encoded.indices)


def known_ids(source: TextSource, ids: pa.Array) -> np.ndarray:
    """(N,) bool, true where the corpus has a row with the id."""
    encoded = ids.dictionary_encode()
    files, _ = open_index(source.index).find(hash_ids(encoded.dictionary))
    has_row = pc.fill_null(pa.array(files >= 0).take(encoded.indices), False)
    result: np.ndarray = has_row.to_numpy(zero_copy_only=False)
    return result


@lru_cache(maxsize=1024)
def _shard(name: str) -> Shard:
    """The shard that a file of the index names."""
    values = json.loads(name)["shard"]
    marks = tuple(Mark(**mark) for mark in values.pop("marks"))
    edges = tuple(values.pop("boundaries"))
    return Shard(**values, boundaries=edges, schema=pa.schema([]), marks=marks)


def _entries(shards: list[Shard], schema: pa.Schema, inputs: Inputs) -> Iterator[np.ndarray]:
    """Entries of all ids, shard after shard."""
    # Which rows there are does not depend on what a map makes of them.
    of_files = schema_of_files(schema)
    columns = pa.schema([of_files.field(inputs.id_column)]) if inputs.id_column else of_files
    units = []
    for number, shard in enumerate(shards):
        if shard.n_rows > _MAX_SHARD_ROWS:
            raise InputError(
                f"{redact(shard.url)}: {shard.n_rows:,} rows, more than {_MAX_SHARD_ROWS:,} in one "
                "file cannot be looked up; split it"
            )
        rows_at_once = _ID_ROWS.get(shard.format, _LINE_ROWS)
        units += [(number, unit) for unit in plan_units([shard], rows_at_once)]

    def read(item: tuple[int, Unit]) -> np.ndarray:
        number, unit = item
        rows = read_rows(unit, columns, filters(inputs), inputs.id_column, *limits(inputs))
        ids = ids_of(unit, rows, inputs)
        valid = ids.is_valid().to_numpy(zero_copy_only=False) if len(ids) else np.zeros(0, bool)
        return to_entries(hash_ids(ids.drop_null()), number, rows.row_numbers[valid])

    with ThreadPoolExecutor(_THREADS) as pool:
        # A group at a time: the pool's map reads on, however slowly its results are taken.
        for start in range(0, len(units), _UNITS_AT_ONCE):
            yield from pool.map(read, units[start : start + _UNITS_AT_ONCE])
