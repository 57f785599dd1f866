"""``stx evaluate``: measures of a ranking against judgements."""

import re
from typing import Annotated

import typer

# Commas inside brackets belong to a measure, as in RBP(p=0.8,rel=1).
_BETWEEN_MEASURES = re.compile(r"[\s,]+(?![^(]*\))")


def evaluate(
    ranking: Annotated[str, typer.Argument(help="Dataset of stx, or file; see --format.")],
    qrels: Annotated[str, typer.Argument(help="Judgements: TREC, BEIR, Parquet or JSONL.")],
    measures: Annotated[
        list[str] | None,
        typer.Option(help="Like 'nDCG@10 AP(rel=2)@100'; names of https://ir-measur.es."),
    ] = None,
    against: Annotated[str | None, typer.Option(help="Another ranking to compare with.")] = None,
    output: Annotated[str | None, typer.Option(help="Output, if there are several.")] = None,
    format: Annotated[
        str | None, typer.Option(help="Of the rankings: trec, msmarco, parquet or jsonl.")
    ] = None,
    qrels_format: Annotated[
        str | None, typer.Option(help="Of the judgements: trec, beir, parquet or jsonl.")
    ] = None,
    json: Annotated[
        str | None, typer.Option(help="File for all values, those of each query too.")
    ] = None,
    markdown: Annotated[str | None, typer.Option(help="File for the table.")] = None,
) -> None:
    """Measure how well a ranking agrees with judgements."""
    from stx.pipelines.evaluate import run_evaluate
    from stx_core.evaluation.measures import DEFAULT_MEASURES

    names = [name for text in measures or () for name in _BETWEEN_MEASURES.split(text.strip())]
    evaluated = run_evaluate(
        ranking,
        qrels,
        measures=names or DEFAULT_MEASURES,
        against=against,
        output=output,
        formats=(format, qrels_format),
    )
    print(evaluated.markdown, end="")
    evaluated.write(json, markdown)
