"""The retrieve job: blocks of queries times parts of the corpus, then one ranking of each query.

A cell is the k best documents of one part of the corpus for one block of queries. When all cells
are finished, the blocks are merged. Both are units with records: a killed run goes on with either.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.planning.plan import read_held
from pipelines.planning.pool import Pool, available_cores, make_pool
from pipelines.planning.runner import with_runner
from pipelines.planning.work import Target, Work, digest, finish, take_unit
from pipelines.retrieval.rankings import best_hits, hits_schema, positives_of, to_ranking
from pipelines.retrieval.retrievers import HYBRID, Cell, Grid, find_grid, positives_output
from pipelines.retrieval.top_k import FOUND, HITS, POSITIVES, VECTOR, TopKStage, to_hits
from pipelines.running import cluster, stream, unit_table
from pipelines.running.runs import Amount, Start, View, check_output, claimed, finish_units, run_job
from pipelines.spec.retrieval import Fusion, RetrieveSpec
from pipelines.telemetry.ranking_report import RankingRun, with_ranking_page
from pipelines.telemetry.report import Report, simple_report
from pipelines.telemetry.unit_counts import FINISHED, count_scores
from pipelines.telemetry.words import counted
from stx_core.evaluation.qrels import read_qrels
from stx_core.fusion import reciprocal_rank_fusion, weighted_fusion
from stx_core.store import clock
from stx_core.store.commit import commit_snapshot
from stx_core.store.corpus.units import Unit
from stx_core.store.data_file import read_columns
from stx_core.store.files.apart import refuse_overlap
from stx_core.store.files.retries import take_counts
from stx_core.store.files.s3 import use_options
from stx_core.store.files.urls import join

CELLS = "cells"


def run_retrieve(spec: RetrieveSpec, view: View | None = None, *, dry_run: bool = False) -> Report:
    """Find the best documents of every query; commit the rankings as one snapshot.

    Raises:
        RunActive: another start of the same run is at work.
        StxError: the spec, a dataset or the store does not allow it. Finished units are kept.
    """
    return run_job(spec, view, _plan_and_run, dry_run=dry_run)


def _plan_and_run(spec: RetrieveSpec, view: View, began: float, *, dry_run: bool) -> Report:
    root = spec.output.path
    judged = [spec.positives] if spec.positives else []
    refuse_overlap(root, [spec.queries.path, spec.corpus.path, *judged])
    grid = find_grid(spec)
    spec_hash = digest([grid.fingerprint, [unit.identity for unit in grid.units]])
    held = read_held(root, spec_hash)
    work = Work(root, grid.units, grid.keys, grid.facts, grid.outputs, held)
    if work.is_current:
        return Report(root, held.version, committed=False)
    cells = grid.cells(list(work.due))
    missing = [cell for cell in cells if cell.key not in held.done]
    spec = with_runner(spec, len(missing), sum(cell.unit.n_rows for cell in missing))
    size = cluster.cluster_size(spec.resources.runner, available_cores())
    pool = make_pool(spec.resources, *size)
    rows = sum(cell.unit.n_rows for cell in missing)
    cluster.check_fits([_stage(spec, grid, pool)], *size)
    lines = tuple(_lines(spec, grid, work, missing, pool))
    work = replace(work, lines=lines, n_before=len(missing), rows_before=rows)
    view.plan(work)
    if dry_run:
        return Report(root, None, committed=False)
    check_output(root)
    watched = _Recalls(view)
    with claimed(root, spec, spec_hash, held, began) as start:
        streamed, worked = time.monotonic(), clock.now()
        fresh = _stream(spec, grid, work, cells, pool, start, watched)
        seconds = time.monotonic() - streamed
        records = pa.concat_tables([start.records, fresh])
        info = commit_snapshot(root, start.claim, work.planned, records, work.facts, work.schemas)
    report = simple_report(info, root, began, fresh, _warnings(spec, grid, info.outputs))
    report = replace(report, stream_seconds=seconds, lines=tuple(watched.lines(spec.k)))
    timed = fresh.filter(pc.equal(fresh["output"], CELLS))
    told = spec, spec.resources, pool, report, info, records, fresh, timed, worked
    return with_ranking_page(RankingRun("Retrieved", "queries", *told))


class _Recalls(View):
    """Passes a view through, and notes what cells say of their first pass."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._found: dict[str, list[float]] = {}

    def watch(self, results: Iterator[dict[str, Any]], plan: Amount) -> Iterator[dict[str, Any]]:
        for result in self._view.watch(results, plan):
            if result.get("recall") is not None:
                self._found.setdefault(result["leg"], []).append(result["recall"])
            yield result

    def lines(self, k: int) -> Iterator[str]:
        """What a report says of them."""
        for leg, found in self._found.items():
            yield (
                f"  {leg:<8} recall of the exact best {k} of each part of the corpus: "
                f"{sum(found) / len(found):.4f} on average, {min(found):.4f} in the worst block "
                f"(samples of the queries)"
            )


def _lines(
    spec: RetrieveSpec, grid: Grid, work: Work, cells: Sequence[Cell], pool: Pool
) -> Iterator[str]:
    yield f"plan for {work.root}"
    for what, side in (("queries", grid.queries), ("corpus", grid.corpus)):
        yield f"  {what:<8} {side['path']}, version {side['version']}"
    n_queries = sum(unit.n_rows for unit in grid.units)
    for leg in grid.legs:
        n_rows = sum(file.rows for group in leg.groups for file in group)
        shape = "sparse" if leg.width is None else f"{leg.width} dimensions"
        if leg.how["first_pass"] != "exact":
            shape += f", first pass by {leg.how['first_pass']}"
        yield (
            f"  {leg.name:<8} {leg.similarity}, {shape}: the best {spec.k} of {n_rows:,} documents "
            f"for {n_queries:,} queries"
        )
    yield (
        f"  to do    {counted(len(cells), 'cell')} ({counted(len(work.due), 'block')} of queries x "
        f"parts of the corpus), then {counted(len(work.due), 'block')} to merge"
    )
    yield f"  run on   {pool}"


def _stage(spec: RetrieveSpec, grid: Grid, pool: Pool) -> stream.StageSpec:
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
    return stream.StageSpec(
        TopKStage,
        settings,
        pool.actors,
        pool.cpus,
        pool.gpus,
        min_actors=pool.min_actors,
        custom=pool.custom,
    )


@dataclass(frozen=True)
class _Setting:
    """What every reader and writer of a run needs; small and picklable."""

    spec: RetrieveSpec
    target: Target
    columns: Mapping[str, str]
    doc_type: pa.DataType
    schemas: Mapping[str, pa.Schema]


def _stream(
    spec: RetrieveSpec,
    grid: Grid,
    work: Work,
    cells: Sequence[Cell],
    pool: Pool,
    start: Start,
    view: View,
) -> pa.Table:
    """Finish the cells, then the blocks; their records."""
    setting = _Setting(
        spec,
        Target(work.root, start.claim.run, start.claim.epoch, start.damaged),
        {leg.name: leg.column for leg in grid.legs},
        grid.doc_type,
        work.schemas,
    )
    watch = partial(view.watch, plan=work)
    described = [asdict(cell) for cell in cells if cell.key not in work.held.done]
    read, write = partial(_read_cell, setting=setting), partial(_write_cell, setting=setting)
    found = finish_units(
        start, described, read, [_stage(spec, grid, pool)], write, spec.resources, watch
    )
    records = pa.concat_tables([start.records, found])
    files = dict(zip(records["key"].to_pylist(), records["file"].to_pylist(), strict=True))
    blocks = [
        {
            "unit": asdict(work.units[index]),
            "keys": keys,
            # Cells come part after part, each with all due blocks in their order.
            "cells": [(cell.leg, files[cell.key]) for cell in cells[place :: len(work.due)]],
        }
        for place, (index, keys) in enumerate(work.due.items())
    ]
    merge = partial(_write_block, setting=setting)
    merged = finish_units(start, blocks, _read_block, [], merge, spec.resources, watch)
    return pa.concat_tables([found, merged])


def _read_cell(description: Mapping[str, Any], setting: _Setting) -> pa.Table:
    spec = setting.spec
    use_options(spec.store.options())
    began = time.perf_counter()
    unit, vector = Unit(**description["unit"]), setting.columns[description["leg"]]
    rows = take_unit(unit, ["id", vector, *spec.same])
    judged = pa.nulls(len(rows), pa.list_(setting.doc_type))
    if spec.positives:
        pairs = positives_of(rows["id"].combine_chunks(), _judged(spec.positives), setting.doc_type)
        counts = np.bincount(pairs["_query"].to_numpy(), minlength=len(rows))
        ends = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
        judged = pa.ListArray.from_arrays(ends, pairs["doc_id"].combine_chunks())
    columns = {
        unit_table.ID: rows["id"],
        VECTOR: rows[vector],
        **{name: rows[name] for name in spec.same},
        POSITIVES: judged,
    }
    return unit_table.with_notes(
        pa.table(columns),
        leg=description["leg"],
        group=description["group"],
        seconds={"read": time.perf_counter() - began},
        retries=take_counts(),
    )


@lru_cache(maxsize=1)
def _judged(url: str) -> pa.Table:
    return read_qrels(url)


def _write_cell(
    description: Mapping[str, Any], table: pa.Table, setting: _Setting
) -> dict[str, Any]:
    use_options(setting.spec.store.options())
    hits = to_hits(table[HITS], setting.doc_type)
    found = to_hits(table[FOUND], setting.doc_type)
    both = pa.concat_tables([_marked(hits, positives=False), _marked(found, positives=True)])
    notes = unit_table.notes(table)
    ids = table[unit_table.ID]
    unit = Unit(**description["unit"])
    record = finish(
        setting.target, unit, CELLS, description["key"], both, ids,
        seconds=notes["seconds"], counts={FINISHED: clock.now()},
    )  # fmt: skip
    told = {"leg": description["leg"], "recall": notes["recall"]}
    return _result(unit, [asdict(record)], notes["retries"]) | told


def _marked(hits: pa.Table, *, positives: bool) -> pa.Table:
    return hits.append_column("positive", pa.array(np.full(len(hits), positives)))


def _result(
    unit: Unit, records: list[dict[str, Any]], retries: Mapping[str, int]
) -> dict[str, Any]:
    counts = take_counts()
    for kind, count in retries.items():
        counts[kind] = counts.get(kind, 0) + count
    done = {"rows": unit.n_rows, "tokens": 0, "quarantined": 0}
    return {"records": records, "retries": counts, **done}


def _read_block(description: Mapping[str, Any]) -> pa.Table:
    """Nothing: the writer reads the files of the cells one by one, and keeps the best."""
    return pa.table({"files": pa.array([len(description["cells"])])})


def _write_block(
    description: Mapping[str, Any], table: pa.Table, setting: _Setting
) -> dict[str, Any]:
    use_options(setting.spec.store.options())
    unit = Unit(**description["unit"])
    ids = take_unit(unit, ["id"])["id"].combine_chunks()
    rows = _merged(description["cells"], ids, setting)
    records = [
        asdict(
            finish(
                setting.target,
                unit,
                output,
                key,
                rows[output],
                ids,
                counts=count_scores(rows[output]),
            )  # fmt: skip
        )
        for output, key in description["keys"].items()
    ]
    return _result(unit, records, {})


def _merged(
    cells: Sequence[tuple[str, str]], ids: pa.Array, setting: _Setting
) -> dict[str, pa.Table]:
    """Rows of each output, for one block of queries."""
    spec, nothing = setting.spec, hits_schema(setting.doc_type).empty_table()
    best: dict[str, pa.Table] = {}
    judged: dict[str, list[pa.Table]] = {}
    for leg, file in cells:
        hits = read_columns(join(setting.target.root, file), [*nothing.column_names, "positive"])
        is_positive = hits["positive"]
        hits = hits.drop_columns(["positive"])
        parts = [best.get(leg, nothing), hits.filter(pc.invert(is_positive))]
        best[leg] = best_hits(parts, spec.k)
        judged.setdefault(leg, []).append(hits.filter(is_positive))
    rankings = {leg: to_ranking(hits, ids, setting.schemas[leg]) for leg, hits in best.items()}
    outputs = dict(rankings)
    for leg, parts in judged.items():
        if (name := positives_output(leg)) in setting.schemas:
            outputs[name] = to_ranking(pa.concat_tables(parts), ids, setting.schemas[name])
    if spec.fusion:
        outputs[HYBRID] = _fused(rankings, spec.fusion, spec.k).cast(setting.schemas[HYBRID])
    return outputs


def _fused(rankings: Mapping[str, pa.Table], fusion: Fusion, k: int) -> pa.Table:
    weights = [fusion.weights.get(name, 1.0) for name in rankings]
    tables = list(rankings.values())
    if fusion.method == "rrf":
        return reciprocal_rank_fusion(tables, k=fusion.k, weights=weights, top_k=k)
    return weighted_fusion(tables, weights, top_k=k)


def _warnings(
    spec: RetrieveSpec, grid: Grid, outputs: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Judged pairs that were not found in the datasets."""
    if not spec.positives:
        return []
    wanted = pc.sum(pc.greater(_judged(spec.positives)["score"], 0)).as_py() or 0
    found = outputs[positives_output(grid.legs[0].name)]["file_rows"]
    if found >= wanted:
        return []
    return [
        f"{wanted - found:,} of {wanted:,} positive pairs of {spec.positives} were not scored: "
        "their query or document is not in the datasets"
    ]
