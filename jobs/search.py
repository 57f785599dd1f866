"""``stx search``: exact search over one output of a snapshot, with the model that wrote it."""

from typing import Annotated

import typer

from stx.jobs.terminal import say
from stx.pipelines.running.activity import phase


def search(
    path: Annotated[str, typer.Argument(help="Dataset that `stx encode` wrote.")],
    queries: Annotated[list[str], typer.Argument(help="What to look for.")],
    output: Annotated[str | None, typer.Option(help="Output, if there are several.")] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Rows to show.")] = 5,
    show: Annotated[
        list[str] | None, typer.Option(help="Column to print; all of them if not given.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Where the model is now, if moved.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code of the model's folder.")
    ] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Load pickled weights.")
    ] = False,
) -> None:
    """Show the rows nearest to each query."""
    with phase("loading the libraries"):
        from stx.pipelines.search import search_snapshot

    results = search_snapshot(
        path,
        queries,
        output=output,
        top_k=top_k,
        show=show or (),
        model=model,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    for query, rows in zip(queries, results, strict=True):
        say()
        say(f'"{query}"')
        for rank, row in enumerate(rows, start=1):
            names = [name for name in row if name not in ("id", "score")]
            cells = " · ".join(" ".join(str(row[name]).split())[:100] for name in names)
            say(f"  {rank}. {row['score']:.4f}  {row['id']}  {cells}".rstrip())
