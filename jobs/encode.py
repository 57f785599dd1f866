"""``stx encode``, also ``python -m stx.jobs.encode``, for clones of the repository."""

import sys
from typing import Annotated

import typer

from stx.jobs.runs import AcceptQuality, AllowAlerts, DryRun, Sets, check_alerts, prepare, run_spec


def encode(
    source: Annotated[str, typer.Argument(help="Spec file (YAML), or the input.")],
    destination: Annotated[str | None, typer.Argument(help="Output, if no spec is used.")] = None,
    model: Annotated[str | None, typer.Option(help="Model, if no spec is used.")] = None,
    kind: Annotated[str, typer.Option("--type", help="dense or sparse.")] = "dense",
    set_: Sets = None,
    max_units: Annotated[
        int | None, typer.Option(help="Stop after so many units; run again to go on.")
    ] = None,
    deadline: Annotated[
        str | None, typer.Option(help="Stop in time before this duration (55m, 2h) is over.")
    ] = None,
    accept_quality: AcceptQuality = False,
    allow_alerts: AllowAlerts = False,
    dry_run: DryRun = False,
) -> None:
    """Encode a corpus into a new snapshot; what is done already is not done again.

    stx encode SPEC.yaml [--set a.b=c], or stx encode INPUT OUTPUT --model NAME.
    """
    from stx.pipelines.encode import run_encode
    from stx.pipelines.spec.encode import EncodeSpec
    from stx.pipelines.spec.file import load_spec, parse_spec
    from stx_core.errors import SpecError

    overrides = list(set_ or [])
    limits = {"max_units": max_units, "deadline": deadline}
    overrides += [f"resources.{key}={value}" for key, value in limits.items() if value is not None]
    if accept_quality:
        overrides.append("quality.accept=true")
    if destination is None:
        spec = load_spec(source, overrides, EncodeSpec)
    elif model is None:
        raise SpecError("stx encode INPUT OUTPUT needs --model NAME")
    else:
        spec = parse_spec(
            {
                "inputs": {"path": source},
                "models": {kind: {"model": model, "type": kind}},
                "output": {"path": destination},
            },
            overrides,
            source="command line",
            kind=EncodeSpec,
        )
    check_alerts(spec, source, allowed=allow_alerts or dry_run)
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
