"""``stx init``: a spec for a corpus, from a look at it."""

from pathlib import Path
from typing import Annotated

import typer

from stx.jobs.runs import IdColumn, TextColumns
from stx.jobs.terminal import say


def init(
    source: Annotated[str, typer.Argument(help="The corpus: file, folder, glob or URL.")],
    spec: Annotated[str, typer.Argument(help="File to write; - for the terminal.")] = "encode.yaml",
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model: folder or hub name.")
    ] = "sentence-transformers/all-MiniLM-L6-v2",
    output: Annotated[str, typer.Option("--output", "-o", help="The dataset.")] = "embeddings",
    id_column: IdColumn = None,
    text_column: TextColumns = None,
) -> None:
    """Write an encode spec with comments for a corpus, from a look at its first file."""
    from stx.pipelines.spec.command_line import commented_spec, usual_columns
    from stx.pipelines.spec.encode import EncodeSpec
    from stx.pipelines.spec.file import parse_spec
    from stx.pipelines.spec.yaml_text import load_yaml
    from stx_core.errors import SpecError
    from stx_core.store.corpus.peek import peek

    seen = peek([source])
    columns = usual_columns(list(seen.columns), source, id_column, text_column)
    text = commented_spec(source, seen, *columns, model=model, output=output)
    # What is written can be run: a mistake in an option shows here.
    parse_spec(load_yaml(text.encode(), spec), source="stx init", kind=EncodeSpec)
    if spec == "-":
        for line in text.splitlines():
            say(line)
        return
    try:
        with Path(spec).open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SpecError(f"{spec} is there already; name another file, or - to print") from None
    except OSError as error:
        raise SpecError(f"{spec}: {error.strerror}; name a file that can be written") from None
    say(f"wrote {spec}: the id is {columns[0]}, the text {' and '.join(columns[1])}")
    say(f"next: stx encode {spec} --dry-run, then without --dry-run")
