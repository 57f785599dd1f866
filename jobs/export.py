"""``stx export``: a dataset in the form of another tool."""

from typing import Annotated

import typer

from stx.jobs.terminal import say
from stx.pipelines.running.activity import phase


def export(
    dataset: Annotated[str, typer.Argument(help="Dataset that stx wrote.")],
    destination: Annotated[
        str, typer.Argument(help="File, folder, URL, or URL/COLLECTION of an engine.")
    ],
    format: Annotated[
        str,
        typer.Option(
            help="Any output: jsonl, parquet (a folder). Rankings: trec (run file), top_ranked "
            "(MTEB; .parquet or .jsonl). Vectors: huggingface, lance, delta, iceberg, qdrant, "
            "milvus, pinecone, pgvector, elasticsearch, opensearch, vespa, faiss, usearch, "
            "anserini, seismic, ciff; see docs/export.md."
        ),
    ],
    output: Annotated[str | None, typer.Option(help="Output, if there are several.")] = None,
    tag: Annotated[str, typer.Option(help="Name of the ranking in a TREC run file.")] = "stx",
    columns: Annotated[
        str | None,
        typer.Option(help="Copied columns that go along with vectors: a,b; '' for none."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="pgvector: table; vespa: document type; pinecone: namespace.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="faiss: what its index factory is to make, say HNSW32.")
    ] = None,
    catalog: Annotated[
        str | None, typer.Option(help="iceberg: a catalog that pyiceberg is configured for.")
    ] = None,
    vocabulary: Annotated[
        str | None,
        typer.Option(help="Sparse: a tokenizer.json; its tokens name the dimensions."),
    ] = None,
) -> None:
    """Write an output in the form of another tool, or into it."""
    from stx.pipelines.export import run_export
    from stx_core.store.files.urls import redact

    chosen = None if columns is None else tuple(filter(None, columns.split(",")))
    with phase("writing"):
        n_rows = run_export(
            dataset,
            destination,
            format,
            output=output,
            tag=tag,
            columns=chosen,
            name=name,
            recipe=recipe,
            catalog=catalog,
            vocabulary=vocabulary,
        )
    say(f"wrote {n_rows:,} rows of {redact(dataset)} to {redact(destination)} as {format}")
