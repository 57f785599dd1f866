"""``stx gc``: delete old versions, and what interrupted or replaced work left behind."""

from typing import Annotated

import typer

from stx.jobs.terminal import say


def gc(
    path: Annotated[str, typer.Argument(help="Dataset that `stx encode` wrote.")],
    keep: Annotated[int, typer.Option(min=1, help="How many versions stay.")] = 10,
    older_than: Annotated[
        float, typer.Option(min=0, metavar="HOURS", help="Spare files that are younger.")
    ] = 24,
    abandon_after: Annotated[
        float,
        typer.Option(min=0, metavar="DAYS", help="Give up interrupted runs that are older."),
    ] = 14,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Delete what neither the newest versions nor runs that may go on need."""
    from stx.jobs.logs import configure_logging
    from stx.pipelines.planning.words import counted
    from stx_core.store.gc import gc as collect

    configure_logging()
    garbage = collect(
        path,
        keep=keep,
        margin_s=older_than * 3600,
        abandon_after_s=abandon_after * 24 * 3600,
        dry_run=dry_run,
    )
    verb = "would delete" if dry_run else "deleted"
    say(f"{path}: {verb} {counted(len(garbage.files), 'file')}, {garbage.size / 1e6:,.1f} MB")
    if garbage.next_in_s is not None:
        say(
            f"  spared     {counted(garbage.n_spared, 'file')} younger than {older_than:g} h "
            f"(--older-than); the first can go in {garbage.next_in_s / 3600:,.1f} h"
        )
    if garbage.n_uploads:
        print(f"  uploads    {counted(garbage.n_uploads, 'unfinished upload')} aborted")
    if garbage.versions:
        say(f"  versions   {', '.join(map(str, garbage.versions))}")
    for run in garbage.runs:
        say(f"  given up   run {run}")
    if dry_run:
        for file in garbage.files:
            say(f"  {file}")
