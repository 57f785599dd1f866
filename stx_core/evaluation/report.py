"""Evaluations as text: a Markdown table for people, a JSON object for programs."""

from collections.abc import Sequence
from typing import Any

from stx_core.evaluation.comparison import Difference
from stx_core.evaluation.measures import Evaluation


def to_markdown(evaluation: Evaluation) -> str:
    """A table of measures with their means, and a line of counts."""
    rows = [[name, f"{mean:.4f}"] for name, mean in evaluation.means.items()]
    return f"{_table(['measure', 'mean'], rows)}\n\n{counts_line(evaluation)}\n"


def comparison_to_markdown(
    evaluation: Evaluation, against: Evaluation, differences: Sequence[Difference]
) -> str:
    """A table of both rankings' means and how they differ, and a line of counts for each."""
    columns = ["measure", "ranking", "against", "difference", "95 % interval", "p"]
    rows = [
        [
            row.measure,
            f"{evaluation.means[row.measure]:.4f}",
            f"{against.means[row.measure]:.4f}",
            f"{row.difference:+.4f}",
            f"{row.low:+.4f} to {row.high:+.4f}",
            f"{row.p_value:.4f}",
        ]
        for row in differences
    ]
    lines = f"ranking: {counts_line(evaluation)}\nagainst: {counts_line(against)}"
    return f"{_table(columns, rows)}\n\n{lines}\n"


def counts_line(evaluation: Evaluation) -> str:
    """A line of how many queries the means are over, and what is unusual about them."""
    parts = [
        f"{len(evaluation.query_ids):,} judged queries, {evaluation.n_rows:,} ranked documents"
    ]
    if evaluation.n_not_ranked:
        parts.append(f"{evaluation.n_not_ranked:,} queries not in the ranking, counted as 0")
    if evaluation.n_without_relevant:
        parts.append(
            f"{evaluation.n_without_relevant:,} queries without a relevant document, counted as 0"
        )
    if evaluation.n_not_judged:
        parts.append(f"{evaluation.n_not_judged:,} queries without judgements, left out")
    return "; ".join(parts)


def depth_note(evaluation: Evaluation, name: str = "ranking") -> str:
    """A line about measures that look deeper than the ranking goes; "" where none does."""
    cutoffs = {measure: measure.rpartition("@")[2] for measure in evaluation.measures}
    deeper = [
        measure
        for measure, cutoff in cutoffs.items()
        if cutoff.isdecimal() and int(cutoff) > evaluation.depth
    ]
    if not deeper:
        return ""
    return (
        f"{name}: no query has more than {evaluation.depth:,} documents; {', '.join(deeper)} "
        "count what lies deeper as not retrieved\n"
    )


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Means, counts and the values of every query, as plain values."""
    queries = zip(evaluation.query_ids, evaluation.values.tolist(), strict=True)
    return {
        "measures": evaluation.means,
        "n_queries": len(evaluation.query_ids),
        "n_rows": evaluation.n_rows,
        "n_not_ranked": evaluation.n_not_ranked,
        "n_not_judged": evaluation.n_not_judged,
        "n_without_relevant": evaluation.n_without_relevant,
        "queries": {
            query: dict(zip(evaluation.measures, values, strict=True)) for query, values in queries
        },
    }


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up in a terminal; numbers to the right."""
    widths = [max(len(row[place]) for row in [columns, *rows]) for place in range(len(columns))]
    ruler = [
        "-" * width if not place else "-" * (width - 1) + ":" for place, width in enumerate(widths)
    ]
    lines = [
        " | ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [columns, ruler, *rows]
    ]
    return "\n".join(f"| {line} |" for line in lines)
