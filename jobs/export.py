"""``stx export``: a dataset in the form of another tool."""

from typing import Annotated

import typer

from stx.jobs.terminal import say
from stx.pipelines.exports.forms import forms_in_words
from stx.pipelines.running.activity import phase


def export(
    dataset: Annotated[str, typer.Argument(help="Dataset that stx wrote.")],
    destination: Annotated[
        str, typer.Argument(help="File, folder, URL, or URL/COLLECTION of an engine.")
    ],
    format: Annotated[
        str,
        typer.Option(help=f"For {forms_in_words()}; see docs/export.md."),
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
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="What only the form of a plug-in has."),
    ] = None,
) -> None:
    """Write an output in the form of another tool, or into it."""
    from stx.pipelines.export import run_export
    from stx_core.errors import SpecError
    from stx_core.store.files.urls import redact

    if wrong := [text for text in option or () if "=" not in text]:
        raise SpecError(f"--option {wrong[0]}: write it as NAME=VALUE")
    own = dict(text.split("=", 1) for text in option or ())
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
            **own,
        )
    say(f"wrote {n_rows:,} rows of {redact(dataset)} to {redact(destination)} as {format}")
