"""``stx export``: a dataset in the form of another tool."""

from typing import Annotated

import typer


def export(
    dataset: Annotated[str, typer.Argument(help="Dataset that stx wrote.")],
    destination: Annotated[str, typer.Argument(help="File, folder or URL; must not exist.")],
    format: Annotated[
        str,
        typer.Option(
            help="Any output: jsonl, parquet (a folder). Rankings: trec (run file), top_ranked "
            "(MTEB; .parquet or .jsonl)."
        ),
    ],
    output: Annotated[str | None, typer.Option(help="Output, if there are several.")] = None,
    tag: Annotated[str, typer.Option(help="Name of the ranking in a TREC run file.")] = "stx",
) -> None:
    """Write an output as JSON lines or Parquet, or a ranking as TREC run file or top_ranked."""
    from pipelines.export import run_export

    n_rows = run_export(dataset, destination, format, output=output, tag=tag)
    print(f"wrote {n_rows:,} rows of {dataset} to {destination} as {format}")
