"""The pairs that `rerank` scores: a ranking that stx wrote, a file with one, or a table of texts.

They are cut into units of whole queries. A dataset stays where it is. A file is read, sorted by
query and rank, and published as Parquet in the folder of the run; so it must fit into the memory of
the driver, a dataset need not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.planning.snapshot_files import digest, snapshot_data
from stx.pipelines.reranking.text_tables import is_text_table, read_text_table
from stx.pipelines.retrieval.rankings import ranks
from stx.pipelines.spec.retrieval import Candidates
from stx_core.errors import InputError, SpecError
from stx_core.evaluation.files import list_parts
from stx_core.evaluation.rankings import is_dataset, read_rankings
from stx_core.evaluation.whole_queries import query_starts
from stx_core.store.corpus.units import Unit, Units
from stx_core.store.data_file import read_columns
from stx_core.store.files.filesystem import file_info, list_names, write_new
from stx_core.store.files.parallel import parallel
from stx_core.store.files.urls import join, redact
from stx_core.store.schema import RANKING, to_parquet
from stx_core.store.snapshot import output_schema, snapshot_info, snapshot_state


@dataclass(frozen=True)
class DatasetSource:
    """A ranking of a dataset."""

    path: str
    version: int
    output: str


@dataclass(frozen=True)
class FileSource:
    """Files with a ranking, or with texts."""

    path: str
    identity: str


@dataclass(frozen=True)
class CandidateUnits:
    """Candidates, cut into units.

    Attributes:
        source: of the candidates; the snapshot keeps it.
        units: row ranges; the rows of a query stand together, best first, and are never cut.
        schema: columns of the candidates: ``query_id``, ``doc_id``, ``rank``, ``score``, and
            ``query`` and ``document`` if they have texts.
        table: rows of a file, to be published; None for a dataset.
        name: of the published file.
    """

    source: DatasetSource | FileSource
    units: Units
    schema: pa.Schema
    table: pa.Table | None = None
    name: str = ""


def find_candidates(spec: Candidates, rows_per_unit: int) -> CandidateUnits:
    """Look candidates up, or read them.

    Raises:
        SpecError: the dataset has no such ranking.
        InputError: nothing is there, it is no ranking, or a line or row is bad; names it.
        StoreError: there is no such snapshot.
    """
    if is_dataset(spec.path):
        return _in_dataset(spec, rows_per_unit)
    return _in_files(spec, rows_per_unit)


def publish(candidates: CandidateUnits, folder: str) -> str:
    """Put candidates of a file where the workers of all machines find them.

    Returns:
        URL of the file to read instead of those that the units name; empty for a dataset.
    """
    if candidates.table is None:
        return ""
    if candidates.name not in list_names(folder):
        write_new(join(folder, candidates.name), to_parquet(candidates.table))
    return join(folder, candidates.name)


def _in_dataset(spec: Candidates, rows_per_unit: int) -> CandidateUnits:
    info = snapshot_info(spec.path, spec.version)
    rankings = [name for name, facts in info.outputs.items() if facts["type"] == "ranking"]
    output = spec.output or (rankings[0] if len(rankings) == 1 else None)
    if output not in rankings:
        raise SpecError(
            f"candidates.output: {redact(spec.path)} has "
            f"{'the rankings ' + ', '.join(rankings) if rankings else 'no ranking'}; "
            f"{'name one' if rankings else 'name a dataset that stx retrieve or rerank wrote'}"
        )
    schema = output_schema(snapshot_state(spec.path, info.version)["outputs"][output])
    files = snapshot_data(spec.path, info.version, output)
    sizes = parallel(lambda file: _sizes(read_columns(file.url, ["query_id"])), files)
    ranges = [
        (file.url, file.checksum, start, stop)
        for file, counts in zip(files, sizes, strict=True)
        for start, stop in cut(counts, rows_per_unit, spec.depth)
    ]
    source = DatasetSource(redact(spec.path), info.version, output)
    columns = pa.schema([schema.field(name) for name in RANKING.names])
    return CandidateUnits(source, _units(spec, ranges), columns)


def _in_files(spec: Candidates, rows_per_unit: int) -> CandidateUnits:
    if spec.version is not None or spec.output is not None:
        raise SpecError(
            f"candidates: {redact(spec.path)} is no dataset of stx, it has no versions and "
            "outputs; leave them out"
        )
    urls = list_parts(spec.path)
    identity = digest([[url, file_info(url).identity] for url in urls])
    if is_text_table(urls):
        table = read_text_table(urls)
    else:
        tables = list(read_rankings(spec.path))
        table = pa.concat_tables(tables) if tables else RANKING.empty_table()
    order = [("query_id", "ascending"), ("rank", "ascending"),
             ("score", "descending"), ("doc_id", "ascending")]  # fmt: skip
    table = table.take(pc.sort_indices(table.select(RANKING.names), order))
    ranges = [
        (spec.path, identity, start, stop)
        for start, stop in cut(_sizes(table), rows_per_unit, spec.depth)
    ]
    return CandidateUnits(
        FileSource(redact(spec.path), identity),
        _units(spec, ranges),
        table.schema,
        table=table,
        name=f"candidates-{identity[:32]}.parquet",
    )


def _units(spec: Candidates, ranges: Sequence[tuple[str, str, int, int]]) -> Units:
    if not ranges:
        raise InputError(f"{redact(spec.path)}: no candidates, nothing to rerank")
    return Units.of(
        Unit(index, url, identity, format="parquet", start=start, stop=stop)
        for index, (url, identity, start, stop) in enumerate(ranges)
    )


def _sizes(table: pa.Table) -> np.ndarray:
    """(Q,) rows of each query, for a table where those of a query stand together."""
    if not len(table):
        return np.zeros(0, np.int64)
    return np.diff(query_starts(table), append=len(table))


def cut(sizes: np.ndarray, rows_per_unit: int, depth: int | None) -> Iterator[tuple[int, int]]:
    """Row ranges of whole queries, with `rows_per_unit` candidates at most, or a larger query.

    Args:
        sizes: (Q,) rows of each query.
        rows_per_unit: candidates of a unit.
        depth: candidates of a query that count; None for all.
    """
    start = stop = n_pairs = 0
    for size in sizes.tolist():
        pairs = size if depth is None else min(size, depth)
        if stop > start and n_pairs + pairs > rows_per_unit:
            yield start, stop
            start, n_pairs = stop, 0
        stop += size
        n_pairs += pairs
    if stop > start:
        yield start, stop


def rows_to_score(table: pa.Table, depth: int | None) -> np.ndarray:
    """Rows of a unit that are to be scored: the best of each query, each document once.

    Args:
        table: ``query_id`` and ``doc_id`` of the unit.
        depth: candidates per query; None for all.
    """
    queries, documents = (
        table[name].combine_chunks().dictionary_encode() for name in ("query_id", "doc_id")
    )
    query = queries.indices.to_numpy().astype(np.int64)
    pairs = query * max(1, len(documents.dictionary)) + documents.indices.to_numpy()
    rows = np.sort(np.unique(pairs, return_index=True)[1])
    chosen: np.ndarray = rows if depth is None else rows[ranks(query[rows]) <= depth]
    return chosen
