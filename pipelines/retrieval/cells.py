"""The passes of `retrieve`: cells first, then the blocks of queries that they are merged to.

A cell is the k best documents of one part of the corpus for one block of queries. Both are units
with records: a stopped run goes on with either.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

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
from stx.pipelines.retrieval.rankings import (
    best_hits,
    hits_schema,
    positives_of,
    read_judged,
    to_ranking,
)
from stx.pipelines.retrieval.retrievers import CELLS, HYBRID, Cell, Grid, positives_output
from stx.pipelines.retrieval.top_k import (
    FOUND,
    HITS,
    POSITIVES,
    VECTOR,
    Search,
    TopKStage,
    to_hits,
)
from stx.pipelines.running import stream, unit_table
from stx.pipelines.spec.retrieval import RetrieveSpec
from stx.pipelines.telemetry.unit_counts import UnitCounts, count_scores
from stx_core.fusion import reciprocal_rank_fusion, weighted_fusion
from stx_core.store import clock
from stx_core.store.data_file import read_columns
from stx_core.store.files.urls import join


def top_k_stages(spec: RetrieveSpec, grid: Grid, pool: Pool) -> list[stream.StageSpec]:
    """The actors that compare vectors."""
    searches = {
        leg.name: Search(
            leg.similarity,
            leg.column,
            groups=[[file.url for file in group] for group in leg.groups],
            first_pass=leg.first_pass,
            oversample=leg.oversample,
        )
        for leg in grid.legs
    }
    settings = {
        "searches": searches,
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
    spec = start.spec
    columns = {leg.name: leg.column for leg in grid.legs}
    units = RetrieveUnits(spec, columns, grid.doc_type, plan.schemas)
    done = set(plan.state.done.to_pylist())
    missing = [cell for cell in cells if cell.key not in done]
    fresh = yield Pass(missing, units.read_cell, plan.stages, units.cell_results)
    records = pa.concat_tables([start.records, fresh])
    files = dict(zip(records["key"].to_pylist(), records["file"].to_pylist(), strict=True))
    n_blocks = len(plan.due)
    blocks = [
        Block(
            block.unit,
            block.keys,
            # Cells come part after part, each with all due blocks in their order.
            tuple((cell.leg, files[cell.key]) for cell in cells[place::n_blocks]),
        )
        for place, block in enumerate(plan.due_units())
    ]
    yield Pass(blocks, units.read_block, [], units.block_results)
    return {}


@dataclass(frozen=True)
class Block(DueUnit):
    """A block of queries, and retriever and file of each of its cells."""

    cells: tuple[tuple[str, str], ...]


class CellCounts(UnitCounts):
    """Counts of a cell: its retriever, and the recall of its first pass; None where it is exact."""

    leg: str
    recall: float | None


@dataclass(frozen=True)
class RetrieveUnits:
    """All that readers and writers of a run need; small and picklable.

    Attributes:
        spec: of the job.
        columns: of the vectors, by retriever.
        doc_type: Arrow type of the documents' ids.
        schemas: by output, of its files.
    """

    spec: RetrieveSpec
    columns: Mapping[str, str]
    doc_type: pa.DataType
    schemas: Mapping[str, pa.Schema]

    def read_cell(self, cell: Cell) -> pa.Table:
        """The queries of a cell: vectors, judged documents, columns that must be the same."""
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

    def cell_results(self, cell: Cell, table: pa.Table) -> Iterator[UnitResult]:
        """The hits of a cell, and the scores of judged pairs, in one file."""
        parts = []
        for column, positive in ((HITS, False), (FOUND, True)):
            hits = to_hits(table[column], self.doc_type)
            mark = pa.array(np.full(len(hits), positive))
            parts.append(hits.append_column("positive", mark))
        ids = IdSet.of(table[unit_table.ID])
        recall = unit_table.notes(table)["recall"]
        yield UnitResult(
            output=CELLS,
            key=cell.key,
            rows=pa.concat_tables(parts),
            ids_in=ids,
            ids_out=ids,
            counts=CellCounts(finished=clock.now(), leg=cell.leg, recall=recall),
        )

    def read_block(self, block: Block) -> pa.Table:
        """Nothing: the files of the cells are read one by one where the best of them are kept."""
        return pa.table({"files": pa.array([len(block.cells)])})

    def block_results(self, block: Block, table: pa.Table) -> Iterator[UnitResult]:  # noqa: ARG002
        """The rankings of a block of queries, merged from its cells, and scores of judged pairs."""
        spec, query_ids = self.spec, take_unit(block.unit, ["id"])["id"].combine_chunks()
        nothing = hits_schema(self.doc_type).empty_table()
        best: dict[str, pa.Table] = {}
        judged: dict[str, list[pa.Table]] = {}
        for leg, file in block.cells:
            columns = [*nothing.column_names, "positive"]
            hits = read_columns(join(spec.output.path, file), columns)
            is_positive = hits["positive"]
            hits = hits.drop_columns(["positive"])
            parts = [best.get(leg, nothing), hits.filter(pc.invert(is_positive))]
            best[leg] = best_hits(parts, spec.k)
            judged.setdefault(leg, []).append(hits.filter(is_positive))
        schemas = self.schemas
        outputs = {leg: to_ranking(hits, query_ids, schemas[leg]) for leg, hits in best.items()}
        if fusion := spec.fusion:
            rankings = list(outputs.values())
            weights = [fusion.weights.get(leg, 1.0) for leg in outputs]
            fused = (
                reciprocal_rank_fusion(rankings, k=fusion.k, weights=weights, top_k=spec.k)
                if fusion.method == "rrf"
                else weighted_fusion(rankings, weights, top_k=spec.k)
            )
            outputs[HYBRID] = fused.cast(schemas[HYBRID])
        for leg, parts in judged.items():
            if (name := positives_output(leg)) in schemas:
                outputs[name] = to_ranking(pa.concat_tables(parts), query_ids, schemas[name])
        ids = IdSet.of(query_ids)
        for output, key in block.keys.items():
            rows = outputs[output]
            yield UnitResult(
                output=output,
                key=key,
                rows=rows,
                ids_in=ids,
                ids_out=ids,
                counts=count_scores(rows),
            )
