"""``stx diff``: what differs between two versions of a dataset."""

from typing import Annotated

import typer

from stx.jobs.terminal import say
from stx.pipelines.running.activity import phase

# Ids of each kind that are shown unasked.
_SHOWN = 5


def diff(
    path: Annotated[str, typer.Argument(help="Dataset that `stx encode` wrote.")],
    old: Annotated[int | None, typer.Argument(help="A version; else the one before.")] = None,
    new: Annotated[int | None, typer.Argument(help="A later one; else the current.")] = None,
    output: Annotated[str | None, typer.Option(help="Output, if there are several.")] = None,
    ids: Annotated[
        bool, typer.Option("--ids", help="Print all ids, one a line after +, - or ~.")
    ] = False,
) -> None:
    """Count the ids that were added, removed and changed between two versions.

    Changed is a row whose text or copied columns differ, or, where the model or its settings do,
    each row.
    """
    from stx_core.store.diff import snapshot_diff

    with phase("comparing"):
        seen = snapshot_diff(path, old, new, output)
    parts = {"added": seen.added, "removed": seen.removed, "changed": seen.changed}
    if ids:
        for sign, values in zip("+-~", parts.values(), strict=True):
            for value in values:
                say(f"{sign} {value}")
        return
    say(f"{path}, {seen.output}: version {seen.old} to {seen.new}")
    for word, values in parts.items():
        shown = ", ".join(str(value) for value in values[:_SHOWN].to_pylist())
        more = f": {shown}{' …' if len(values) > _SHOWN else ''}" if len(values) else ""
        say(f"  {word:<10} {len(values):>12,}{more}")
    say(f"  {'unchanged':<10} {seen.n_unchanged:>12,}")
