"""``stx import``: a ranking from elsewhere as a dataset."""

from typing import Annotated

import typer

from stx.jobs.runs import prepare, run_spec


def import_ranking(
    source: Annotated[str, typer.Argument(help="TREC run, MS MARCO, Parquet, JSONL, top_ranked.")],
    dataset: Annotated[str, typer.Argument(help="Where to write it.")],
    name: Annotated[str, typer.Option(help="Of the output.")] = "ranking",
    format: Annotated[
        str | None, typer.Option(help="trec, msmarco, parquet or jsonl; else told by the file.")
    ] = None,
    ids: Annotated[
        str, typer.Option(help="string or int64, as the datasets have it is used with.")
    ] = "string",
) -> None:
    """Commit a ranking of another engine (BM25, say) as a dataset, for mine and the others."""
    from stx.pipelines.import_ranking import run_import
    from stx.pipelines.spec.file import parse_spec
    from stx.pipelines.spec.import_ranking import ImportSpec

    values = {"source": source, "path": dataset, "name": name, "format": format, "ids": ids}
    spec = parse_spec(values, source="command line", kind=ImportSpec)
    prepare()
    run_spec("import", run_import, spec)
