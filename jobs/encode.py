"""``stx encode``, also ``python -m stx.jobs.encode``, for clones of the repository."""

import json
import sys
from typing import Annotated, Any

import typer

from stx.jobs.runs import (
    AcceptQuality,
    AllowAlerts,
    AllowCode,
    DryRun,
    IdColumn,
    Sets,
    TextColumns,
    check_trust,
    prepare,
    run_spec,
    spec_values,
)
from stx.jobs.terminal import say
from stx.pipelines.running.activity import phase


def encode(
    source: Annotated[str, typer.Argument(help="Spec file (YAML), or the input.")],
    destination: Annotated[str | None, typer.Argument(help="Output, if no spec is used.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model, if no spec is used.")
    ] = None,
    kind: Annotated[str, typer.Option("--type", help="dense or sparse.")] = "dense",
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Output; of a spec: instead of its own.")
    ] = None,
    id_column: IdColumn = None,
    text_column: TextColumns = None,
    columns: Annotated[
        list[str] | None, typer.Option(help="Columns to copy beside the vectors: lang,url.")
    ] = None,
    filter_: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="CONDITION", help="Rows to take: 'lang == en'."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="What the model computes in: float32, bfloat16 …")
    ] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens of one batch.")] = None,
    set_: Sets = None,
    max_units: Annotated[
        int | None, typer.Option(help="Stop after so many units; run again to go on.")
    ] = None,
    deadline: Annotated[
        str | None, typer.Option(help="Stop in time before this duration (55m, 2h) is over.")
    ] = None,
    accept_quality: AcceptQuality = False,
    allow_alerts: AllowAlerts = False,
    allow_code: AllowCode = False,
    dry_run: DryRun = False,
) -> None:
    """Encode a corpus into a new snapshot; what is done already is not done again.

    stx encode SPEC.yaml [--set a.b=c], or stx encode INPUT OUTPUT --model NAME. The second looks
    for the columns of ids and texts by their usual names, and says which it takes.
    """
    with phase("loading the libraries"):
        from stx.pipelines.encode import run_encode
    from stx.pipelines.spec.command_line import condition_of, overrides, usual_columns
    from stx.pipelines.spec.encode import EncodeSpec
    from stx.pipelines.spec.file import parse_spec
    from stx_core.errors import SpecError
    from stx_core.store.corpus.peek import peek

    values: dict[str, Any]
    target = destination or output
    if model is None and destination is None:
        values = spec_values("encode", source)
    elif model is None:
        raise SpecError(f"stx encode {source} {destination} needs --model NAME")
    elif target is None:
        raise SpecError(
            f"stx encode {source} --model {model} needs an OUTPUT; a spec has its own models, "
            "which --set models.NAME.model=… changes"
        )
    else:
        values = {
            "inputs": {"path": source},
            "models": {kind: {"model": model, "type": kind}},
            "output": {"path": target},
        }
        # What --set names is not looked for; it goes before what is set here.
        given: dict[str, Any] = dict(item.partition("=")[::2] for item in set_ or ())
        id_column = id_column or given.get("inputs.id_column")
        if not text_column and "inputs.text_column" in given:
            text_column = [given["inputs.text_column"]]
        csv = [item for item in set_ or () if item.startswith("inputs.csv")]
        form = parse_spec(values, csv, source="command line", kind=EncodeSpec).inputs.csv.form
        if not form.columns and not (id_column and text_column):
            seen = peek([source], given.get("inputs.format"), form)
            if seen.delimiter is not None:
                raise SpecError(
                    f"{seen.url}: its first line looks as if {seen.delimiter!r} stood between its "
                    f"columns ({', '.join(seen.columns)}): add --set "
                    f"'inputs.csv.delimiter={json.dumps(seen.delimiter)}'"
                )
            usual_id, usual_text = usual_columns(list(seen.columns), source, id_column, text_column)
            id_column, text_column = id_column or usual_id, text_column or usual_text
            say(f"columns: the id is {id_column}, the text {' and '.join(text_column)}")
    models = values.get("models") or {}
    options = {
        "output.path": output,
        "inputs.id_column": id_column,
        "inputs.text_column": text_column or None,
        "inputs.columns": [name for text in columns or () for name in text.split(",")] or None,
        "inputs.filter": [condition_of(text) for text in filter_ or ()] or None,
        **{f"models.{name}.dtype": dtype for name in models},
        "resources.token_budget": batch_tokens,
        "resources.max_units": max_units,
        "resources.deadline": deadline,
        "quality.accept": accept_quality or None,
    }
    where = source if model is None else "command line"
    spec = parse_spec(values, [*overrides(options), *(set_ or [])], source=where, kind=EncodeSpec)
    check_trust(spec, source, alerts=allow_alerts or dry_run, code=allow_code)
    prepare()
    report = run_spec("encode", run_encode, spec, dry_run=dry_run)
    if report is not None and report.quarantined_share > spec.output.max_quarantined:
        print(
            f"stx: {report.quarantined_share:.2%} of the rows are quarantined, more than "
            f"output.max_quarantined = {spec.output.max_quarantined:.2%}",
            file=sys.stderr,
        )
        raise typer.Exit(3)


if __name__ == "__main__":
    from stx.jobs.ending import end_after
    from stx.jobs.exit_codes import run_application

    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command()(encode)
    end_after(lambda: run_application(alone))
