"""``stx forget``: delete the rows of some ids for good."""

from typing import Annotated

import typer

from stx.jobs.terminal import say

# Ids that are nowhere, shown at most.
_SHOWN = 5


def forget(
    path: Annotated[str, typer.Argument(help="Dataset that `stx encode` wrote.")],
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of the rows.")] = None,
    ids_file: Annotated[
        str | None,
        typer.Option(help="File with ids: one a line; or Parquet, JSONL, CSV with a column."),
    ] = None,
    column: Annotated[str, typer.Option(help="Column of the file.")] = "id",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Delete rows by id: from the current version, and every file that still has them.

    Older versions that have some of the rows are given up. Delete the rows in the source first:
    a run that reads them again encodes them again.
    """
    from stx.jobs.runs import prepare
    from stx.pipelines.forget import run_forget
    from stx.pipelines.planning.words import counted

    prepare()
    done = run_forget(path, ids or (), ids_file=ids_file, column=column, dry_run=dry_run)
    if done.absent:
        shown = ", ".join(done.absent[:_SHOWN])
        more = " …" if len(done.absent) > _SHOWN else ""
        say(f"{path}: in no file: {counted(len(done.absent), 'id')}: {shown}{more}")
    if not done.n_files:
        say(f"{path}: nothing to delete")
        return
    new = f"version {done.version} is current" if done.version else "the current version has none"
    say(f"{path}: {'would forget' if dry_run else f'forgot; {new}'}")
    for name, n_rows in done.rows.items():
        bad = done.quarantined[name]
        say(f"  {name:<10} {counted(n_rows, 'row')}{f', {bad:,} quarantined' if bad else ''}")
    if done.versions:
        say(f"  versions   {', '.join(map(str, done.versions))} given up")
    for run in done.runs:
        say(f"  given up   run {run}, interrupted")
    say(f"  files      {done.n_files:,} {'have some of the rows' if dry_run else 'deleted'}")
    if done.rewritten:
        say(
            f"{path}: {counted(len(done.rewritten), 'file')} of a run that began meanwhile has "
            "them again; delete the rows in the source, and run this again"
        )
        raise typer.Exit(1)
