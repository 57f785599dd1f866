"""The passes of `retrieve`: cells first, then the blocks of queries that they are merged to.

A cell is the k best documents of one part of the corpus for one block of queries. Both are units
with records: a stopped run goes on with either.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.engine.job import stage_on
from stx.pipelines.engine.passes import Pass, Passes
from stx.pipelines.engine.runs import Start
from stx.pipelines.engine.unit_files import IdSet, UnitResult
from stx.pipelines.planning.plan import DueUnit, Plan
from stx.pipelines.planning.pool import Pool
from stx.pipelines.planning.snapshot_files import take_unit
from stx.pipelines.retrieval.rankings import best_hits, hits_schema, positives_of, to_ranking
from stx.pipelines.retrieval.retrievers import CELLS, HYBRID, Cell, Grid, positives_output
from stx.pipelines.retrieval.top_k import FOUND, HITS, POSITIVES, VECTOR, TopKStage, to_hits
from stx.pipelines.running import stream, unit_table
from stx.pipelines.spec.retrieval import Fusion, RetrieveSpec
from stx.pipelines.telemetry.unit_counts import FINISHED, count_scores
from stx_core.evaluation.qrels import read_qrels
from stx_core.fusion import reciprocal_rank_fusion, weighted_fusion
from stx_core.store import clock
from stx_core.store.data_file import read_columns
from stx_core.store.files.urls import join


def top_k_stages(spec: RetrieveSpec, grid: Grid, pool: Pool) -> list[stream.StageSpec]:
    """The actors that compare vectors."""
    legs = {
        leg.name: {
            "similarity": leg.similarity,
            "column": leg.column,
            "groups": [[file.url for file in group] for group in leg.groups],
            **leg.how,
        }
        for leg in grid.legs
    }
    settings = {
        "legs": legs,
        "k": spec.k,
        "same": spec.same,
        "exclude_same_id": spec.exclude_same_id,
        "threads": pool.cpus,
    }
    return [stage_on(pool, TopKStage, settings)]


def retrieve_passes(plan: Plan, grid: Grid, cells: Sequence[Cell], start: Start) -> Passes:
    """Finish the cells that have no record, then merge the due blocks.

    Args:
        plan: of the run.
        grid: what is compared.
        cells: of the due blocks, part after part of the corpus.
        start: of the run.
    """
    assert plan.pool is not None
    spec = start.spec
    missing = [cell for cell in cells if cell.key not in plan.state.done]
    columns = {leg.name: leg.column for leg in grid.legs}
    read = CellReader(spec, columns, grid.doc_type)
    stages = top_k_stages(spec, grid, plan.pool)
    fresh = yield Pass(missing, read, stages, CellResults(grid.doc_type))
    records = pa.concat_tables([start.records, fresh])
    files = dict(zip(records["key"].to_pylist(), records["file"].to_pylist(), strict=True))
    n_blocks = len(plan.due)
    blocks = [
        # Cells come part after part, each with all due blocks in their order.
        Block(
            block.unit,
            block.keys,
            tuple((cell.leg, files[cell.key]) for cell in cells[place::n_blocks]),
        )
        for place, block in enumerate(plan.due_units())
    ]
    yield Pass(blocks, read_block, [], BlockResults(spec, grid.doc_type, plan.schemas))
    return {}


@dataclass(frozen=True)
class Block(DueUnit):
    """A block of queries, and retriever and file of each of its cells."""

    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CellReader:
    """Reads the queries of a cell: vectors, judged documents, columns that must be the same.

    Attributes:
        spec: of the job.
        columns: of the vectors, by retriever.
        doc_type: Arrow type of the documents' ids.
    """

    spec: RetrieveSpec
    columns: Mapping[str, str]
    doc_type: pa.DataType

    def __call__(self, cell: Cell) -> pa.Table:
        """The table of a cell."""
        spec, vector = self.spec, self.columns[cell.leg]
        rows = take_unit(cell.unit, ["id", vector, *spec.same])
        judged = pa.nulls(len(rows), pa.list_(self.doc_type))
        if spec.positives:
            ids = rows["id"].combine_chunks()
            pairs = positives_of(ids, read_judged(spec.positives), self.doc_type)
            counts = np.bincount(pairs["_query"].to_numpy(), minlength=len(rows))
            ends = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
            judged = pa.ListArray.from_arrays(ends, pairs["doc_id"].combine_chunks())
        columns = {
            unit_table.ID: rows["id"],
            VECTOR: rows[vector],
            **{name: rows[name] for name in spec.same},
            POSITIVES: judged,
        }
        return unit_table.with_notes(pa.table(columns), leg=cell.leg, group=cell.group)


@lru_cache(maxsize=1)
def read_judged(url: str) -> pa.Table:
    """Judged pairs, see `read_qrels`; once per process."""
    return read_qrels(url)


@dataclass(frozen=True)
class CellResults:
    """The hits of a cell, and the scores of judged pairs, in one file.

    Attributes:
        doc_type: Arrow type of the documents' ids.
    """

    doc_type: pa.DataType

    def __call__(self, cell: Cell, table: pa.Table) -> Iterator[UnitResult]:
        """The table that the stage left as the result of the cell."""
        parts = []
        for column, positive in ((HITS, False), (FOUND, True)):
            hits = to_hits(table[column], self.doc_type)
            mark = pa.array(np.full(len(hits), positive))
            parts.append(hits.append_column("positive", mark))
        ids = IdSet.of(table[unit_table.ID])
        recall = unit_table.notes(table)["recall"]
        counts = {FINISHED: clock.now(), "leg": cell.leg, "recall": recall}
        yield UnitResult(
            output=CELLS,
            key=cell.key,
            rows=pa.concat_tables(parts),
            ids_in=ids,
            ids_out=ids,
            counts=counts,
        )


def read_block(block: Block) -> pa.Table:
    """Nothing: the files of the cells are read one by one where the best of them are kept."""
    return pa.table({"files": pa.array([len(block.cells)])})


@dataclass(frozen=True)
class BlockResults:
    """Rankings of a block of queries, merged from its cells.

    Attributes:
        spec: of the job.
        doc_type: Arrow type of the documents' ids.
        schemas: by output, of its files.
    """

    spec: RetrieveSpec
    doc_type: pa.DataType
    schemas: Mapping[str, pa.Schema]

    def __call__(self, block: Block, table: pa.Table) -> Iterator[UnitResult]:  # noqa: ARG002
        """All due outputs of a block."""
        rows_ids = take_unit(block.unit, ["id"])["id"].combine_chunks()
        ids = IdSet.of(rows_ids)
        rows = self._merge(block.cells, rows_ids)
        for output, key in block.keys.items():
            yield UnitResult(
                output=output,
                key=key,
                rows=rows[output],
                ids_in=ids,
                ids_out=ids,
                counts=count_scores(rows[output]),
            )

    def _merge(self, cells: Sequence[tuple[str, str]], ids: pa.Array) -> dict[str, pa.Table]:
        """Rows of each output, for one block of queries."""
        spec, nothing = self.spec, hits_schema(self.doc_type).empty_table()
        best: dict[str, pa.Table] = {}
        judged: dict[str, list[pa.Table]] = {}
        for leg, file in cells:
            columns = [*nothing.column_names, "positive"]
            hits = read_columns(join(spec.output.path, file), columns)
            is_positive = hits["positive"]
            hits = hits.drop_columns(["positive"])
            parts = [best.get(leg, nothing), hits.filter(pc.invert(is_positive))]
            best[leg] = best_hits(parts, spec.k)
            judged.setdefault(leg, []).append(hits.filter(is_positive))
        rankings = {leg: to_ranking(hits, ids, self.schemas[leg]) for leg, hits in best.items()}
        outputs = dict(rankings)
        for leg, parts in judged.items():
            if (name := positives_output(leg)) in self.schemas:
                outputs[name] = to_ranking(pa.concat_tables(parts), ids, self.schemas[name])
        if spec.fusion:
            outputs[HYBRID] = _fused(rankings, spec.fusion, spec.k).cast(self.schemas[HYBRID])
        return outputs


def _fused(rankings: Mapping[str, pa.Table], fusion: Fusion, k: int) -> pa.Table:
    weights = [fusion.weights.get(name, 1.0) for name in rankings]
    tables = list(rankings.values())
    if fusion.method == "rrf":
        return reciprocal_rank_fusion(tables, k=fusion.k, weights=weights, top_k=k)
    return weighted_fusion(tables, weights, top_k=k)
