"""``stx rollback``: make an older version current again."""

from typing import Annotated

import typer


def rollback(
    path: Annotated[str, typer.Argument(help="Dataset that `stx encode` wrote.")],
    version: Annotated[int, typer.Argument(help="One of `stx show PATH --versions`.")],
) -> None:
    """Publish the content of an older version as a new one; nothing is deleted."""
    from stx_core.store.commit import rollback as restore

    info = restore(path, version)
    print(f"{path}: version {info.version} is current, with {info.rows:,} rows of run {info.run}")
