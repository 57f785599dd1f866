"""``stx spec``: what specs may say, for editors and for readers."""

from typing import Annotated

import typer

from stx.pipelines.jobs import JOBS

spec = typer.Typer(help="What specs may say.", no_args_is_help=True, rich_markup_mode=None)


@spec.command()
def schema(
    kind: Annotated[str, typer.Argument(help=f"{', '.join(JOBS)} or flow.")] = "encode",
) -> None:
    """Print the JSON Schema of a kind of spec, for completion and checks in an editor."""
    import json

    from stx.pipelines.spec_reference import json_schema

    print(json.dumps(json_schema(kind), indent=1, ensure_ascii=False))


@spec.command()
def reference() -> None:
    """Print a page in Markdown with every key of every spec."""
    from stx.pipelines.spec_reference import reference as page

    print(page())
