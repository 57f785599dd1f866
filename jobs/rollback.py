"""``stx rollback``: make an older version current again."""

from typing import Annotated

import typer

from stx.jobs.terminal import say


def rollback(
    path: Annotated[str, typer.Argument(help="Dataset that `stx encode` wrote.")],
    version: Annotated[
        int | None, typer.Argument(help="One of `stx show PATH --versions`.")
    ] = None,
    release: Annotated[
        bool, typer.Option("--release", help="End the hold: runs may commit again.")
    ] = False,
) -> None:
    """Publish the content of an older version as a new one, and hold it; nothing is deleted.

    While it is held no run commits: they leave with exit code 6 until --release.
    """
    from stx.jobs.logs import configure_logging
    from stx_core.errors import SpecError
    from stx_core.store.commit import release as end_hold
    from stx_core.store.commit import rollback as restore
    from stx_core.store.files.urls import redact

    if (version is None) != release:
        raise SpecError("stx rollback: give a version to go back to, or --release")
    if version is None:
        pinned = end_hold(path)
        state = (
            "no version was held" if pinned is None else f"version {pinned} is not held any more"
        )
        say(f"{path}: {state}; runs may commit")
        return
    configure_logging()
    info = restore(path, version)
    say(f"{path}: version {info.version} is current, with {info.rows:,} rows of run {info.run}")
    say(f"  held: no run commits until `stx rollback {redact(path)} --release`")
