"""``stx doctor``: what a run needs, looked at before one is started."""

from typing import Annotated

import typer

from stx.jobs.terminal import say
from stx.pipelines.running.activity import phase


def doctor(
    output: Annotated[
        str | None, typer.Argument(help="Dataset to be: its store is probed with a small object.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model to load: folder or hub name.")
    ] = None,
    kind: Annotated[str, typer.Option("--type", help="dense, sparse or reranker.")] = "dense",
) -> None:
    """Check machine, store, model and cluster; one line each, exit code 1 if a run would fail.

    The cluster is the one that RAY_ADDRESS names.
    """
    from stx.pipelines.doctor import checks
    from stx_core.errors import SpecError

    if kind not in ("dense", "sparse", "reranker"):
        raise SpecError(f"--type {kind}: it is one of dense, sparse, reranker")
    failed = False
    with phase("looking at the machine"):
        for check in checks(output, model, kind):
            failed = failed or check.state == "fail"
            say(f"{check.state:<5} {check.name:<9} {check.text}")
    if failed:
        raise typer.Exit(1)
