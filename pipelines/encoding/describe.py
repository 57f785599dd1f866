"""An encode run in words: its plan, and columns that do not fit."""

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from stx.pipelines.encoding.plan import EncodePlan
from stx.pipelines.planning.words import counted, duration_range
from stx_core.errors import SpecError


def plan_lines(plan: EncodePlan, inputs: Sequence[str], notes: Sequence[str]) -> Iterator[str]:
    """The plan in words.

    Args:
        plan: with pool and probes.
        inputs: where the corpus is.
        notes: what else a reader should know, one line each.
    """
    yield f"plan for {plan.root}"
    amount = (
        f"{counted(len(plan.units.table['url'].unique()), 'file')}, {counted(plan.n_rows, 'row')}"
    )
    yield f"  input    {', '.join(inputs)}: {amount}"
    for name, part in plan.parts.items():
        settings = part.settings
        yield (
            f"  {name:<8} {settings.model} ({settings.type}, {settings.dtype}), "
            f"{part.fingerprint[:12]}"
        )
        yield (
            f"           to do {counted(len(part.due), 'unit')}, {counted(part.rows_due, 'row')}"
            f" · carried over {counted(part.n_carried, 'unit')}"
            f" · finished earlier {counted(part.n_done, 'unit')}"
        )
        if part.source is not None or part.rows_superseded:
            yield (
                f"           about {part.rows_to_encode:,} rows to encode · "
                f"{part.rows_carried:,} carried over · {part.rows_gone:,} deleted or replaced"
            )
        if probe := part.probe:
            shape = "sparse" if probe.dim is None else f"{probe.dim} dimensions"
            limit = "" if probe.max_seq_length is None else f" at {probe.max_seq_length}"
            yield (
                f"           {shape}, about {probe.tokens_per_row * part.rows_to_encode:,.0f} "
                f"tokens ({probe.tokens_per_row:.0f} per row, {probe.truncated_share:.1%} of the "
                f"rows cut{limit})"
            )
            if probe.why_padded is not None:
                yield f"           batches are padded: {probe.why_padded}"
    for note in notes:
        yield f"  note     {note}"
    if plan.pool is not None:
        yield f"  run on   {plan.pool}"
    if plan.seconds is not None:
        grown = " once all actors are there" if plan.pool and plan.pool.min_actors else ""
        low, high = plan.seconds
        yield f"  time     {duration_range(low, high)} of encoding, by a sample{grown}"
    elif plan.n_due:
        yield "  time     unknown: the actors' device is not on this machine to measure"


def check_schemas(before: Mapping[str, pa.Schema], after: Mapping[str, pa.Schema]) -> None:
    """Compare the columns of files that a backfill keeps with those of files that it writes.

    Raises:
        SpecError: they differ.
    """
    for name, schema in after.items():
        if schema.equals(before[name]):
            continue
        has, gets = (
            ", ".join(f"{field.name}: {field.type}" for field in left if field not in right)
            for left, right in ((before[name], schema), (schema, before[name]))
        )
        raise SpecError(
            f"backfill: output {name} would get {gets or 'fewer columns'}, the dataset has "
            f"{has or 'fewer'}; copy the same columns, with the same types, or encode the "
            "whole corpus"
        )
