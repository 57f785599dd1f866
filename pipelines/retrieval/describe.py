"""A retrieve run in words: its plan, the recall of its first passes, pairs that have no score."""

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.planning.plan import Plan
from stx.pipelines.planning.pool import Pool
from stx.pipelines.planning.words import counted
from stx.pipelines.retrieval.rankings import read_judged
from stx.pipelines.retrieval.retrievers import CELLS, Cell, Grid, positives_output
from stx.pipelines.spec.retrieval import RetrieveSpec
from stx.pipelines.telemetry.unit_counts import read_json
from stx_core.store.log_state import OutputFacts


def plan_lines(
    spec: RetrieveSpec, grid: Grid, plan: Plan, *, cells: Sequence[Cell], pool: Pool
) -> Iterator[str]:
    """The plan.

    Args:
        spec: of the job.
        grid: what is compared.
        plan: of the run.
        cells: that have no record yet.
        pool: the actors.
    """
    yield f"plan for {plan.root}"
    for name, side in (("queries", grid.queries), ("corpus", grid.corpus)):
        yield f"  {name:<8} {side.path}, version {side.version}"
    n_queries = sum(unit.n_rows for unit in grid.units)
    for leg in grid.legs:
        n_rows = sum(file.rows for group in leg.groups for file in group)
        shape = "sparse" if leg.width is None else f"{leg.width} dimensions"
        if leg.first_pass != "exact":
            shape += f", first pass by {leg.first_pass}"
        yield (
            f"  {leg.name:<8} {leg.similarity}, {shape}: the best {spec.k} of {n_rows:,} documents "
            f"for {n_queries:,} queries"
        )
    yield (
        f"  to do    {counted(len(cells), 'cell')} ({counted(len(plan.due), 'block')} of queries x "
        f"parts of the corpus), then {counted(len(plan.due), 'block')} to merge"
    )
    yield f"  run on   {pool}"


def recall_lines(fresh: pa.Table, k: int) -> Iterator[str]:
    """Recall of the first pass, as the cells measured it.

    Args:
        fresh: records of a start.
        k: documents of a query.
    """
    recalls: dict[str, list[float]] = {}
    for counts in read_json(fresh.filter(pc.equal(fresh["output"], CELLS)), "counts"):
        if counts.get("recall") is not None:
            recalls.setdefault(counts["leg"], []).append(counts["recall"])
    for leg, values in recalls.items():
        yield (
            f"  {leg:<8} recall of the exact best {k} of each part of the corpus: "
            f"{sum(values) / len(values):.4f} on average, {min(values):.4f} in the worst block "
            f"(samples of the queries)"
        )


def unscored_pairs(
    spec: RetrieveSpec, grid: Grid, outputs: Mapping[str, OutputFacts]
) -> Iterator[str]:
    """Judged pairs that were not found in the datasets."""
    if not spec.positives:
        return
    n_pairs = pc.sum(pc.greater(read_judged(spec.positives)["score"], 0)).as_py() or 0
    n_scored = outputs[positives_output(grid.legs[0].name)]["file_rows"]
    if n_scored < n_pairs:
        yield (
            f"{n_pairs - n_scored:,} of {n_pairs:,} positive pairs of {spec.positives} were not "
            "scored: their query or document is not in the datasets"
        )
