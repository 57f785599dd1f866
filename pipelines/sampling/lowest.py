"""Rows with the lowest hashes of their ids, each stratum its share; small tables, no files.

S strata, N rows. A stratum is the rows with one value of a column; null is a value.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import xxhash

from stx.pipelines.retrieval.rankings import ranks

SCHEMA = pa.schema(
    [pa.field("stratum", pa.string()), pa.field("hash", pa.int64()), pa.field("of", pa.int64())]
)
"""Lowest hashes: those of a stratum together, lowest first, with the rows that it has in all."""


def hashed(rows: pa.Table, by: str | None, seed: int) -> pa.Table:
    """Stratum and hash of each row.

    Args:
        rows: with ``id``.
        by: column with the stratum; None for one stratum.
        seed: another one gives other hashes.
    """
    ids, seed = rows["id"].cast(pa.string()).to_pylist(), seed % 2**64
    # Below 2^63: Parquet readers that know signed numbers only see the same order.
    hashes = np.fromiter(
        (xxhash.xxh3_64_intdigest(id_.encode(), seed=seed) >> 1 for id_ in ids),
        np.int64,
        len(ids),
    )
    strata = rows[by].cast(pa.string()) if by else pa.nulls(len(ids), pa.string())
    return pa.table({"stratum": strata, "hash": hashes})


def lowest_hashes(rows: pa.Table, n_rows: int) -> pa.Table:
    """The `n_rows` lowest hashes of each stratum, see `SCHEMA`; one sort, whatever S is.

    Args:
        rows: ``stratum`` and ``hash``.
        n_rows: of a stratum.
    """
    strata = _encoded(rows)
    codes, hashes = strata.indices.to_numpy(), rows["hash"].to_numpy()
    order = np.lexsort((hashes, codes))
    chosen = order[ranks(codes[order]) <= n_rows]
    columns = [
        strata.dictionary.take(pa.array(codes[chosen])),
        hashes[chosen],
        np.bincount(codes)[codes[chosen]],
    ]
    return pa.table(columns, schema=SCHEMA)


def limits(units: Iterable[pa.Table], n_rows: int) -> dict[str | None, int]:
    """By stratum, the highest hash that is chosen; -1 for none.

    Args:
        units: lowest hashes of each unit, see `SCHEMA`.
        n_rows: of the sample.
    """
    totals: Counter[str | None] = Counter()
    merged, fresh = SCHEMA.empty_table(), []
    for unit in units:
        codes = _encoded(unit).indices.to_numpy()
        first = unit.take(pa.array(np.flatnonzero(np.diff(codes, prepend=-1))))
        totals.update(dict(zip(first["stratum"].to_pylist(), first["of"].to_pylist(), strict=True)))
        fresh.append(unit)
        # Merged where as many rows have come as there were: each is sorted only a few times.
        if sum(map(len, fresh)) >= len(merged):
            merged, fresh = lowest_hashes(pa.concat_tables([merged, *fresh]), n_rows), []
    merged = lowest_hashes(pa.concat_tables([merged, *fresh]), n_rows)
    starts = np.flatnonzero(np.diff(_encoded(merged).indices.to_numpy(), prepend=-1))
    names, hashes = merged["stratum"].take(pa.array(starts)).to_pylist(), merged["hash"].to_numpy()
    rows_of = shares(totals, n_rows)
    return {
        stratum: int(hashes[start + rows_of[stratum] - 1]) if rows_of[stratum] else -1
        for stratum, start in zip(names, starts.tolist(), strict=True)
    }


def is_chosen(rows: pa.Table, highest: Mapping[str | None, int]) -> np.ndarray:
    """(N,) bool, which rows are up to the limit of their stratum.

    Args:
        rows: ``stratum`` and ``hash``.
        highest: see `limits`.
    """
    strata = _encoded(rows)
    bounds = np.array([highest[name] for name in strata.dictionary.to_pylist()], np.int64)
    chosen: np.ndarray = rows["hash"].to_numpy() <= bounds[strata.indices.to_numpy()]
    return chosen


def shares(totals: Mapping[str | None, int], n_rows: int) -> dict[str | None, int]:
    """Rows of each stratum in proportion, by largest remainders; all where there are fewer rows."""
    n_all = sum(totals.values())
    if n_all <= n_rows:
        return dict(totals)
    exact = {stratum: n_rows * total / n_all for stratum, total in totals.items()}
    rows_of = {stratum: int(value) for stratum, value in exact.items()}
    order = sorted(exact, key=lambda stratum: (rows_of[stratum] - exact[stratum], stratum or ""))
    for stratum in order[: n_rows - sum(rows_of.values())]:
        rows_of[stratum] += 1
    return rows_of


def _encoded(rows: pa.Table) -> pa.DictionaryArray:
    """(N,) strata as codes, in the order in which they come."""
    return rows["stratum"].combine_chunks().dictionary_encode(null_encoding="encode")
