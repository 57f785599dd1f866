"""``stx run``: several jobs from one spec file."""

import sys
import time
from typing import Annotated

import typer

from stx.jobs.runs import AllowAlerts, AllowCode, Sets, check_trust, prepare, run_spec, spec_values
from stx.jobs.terminal import say
from stx.pipelines.jobs import JOBS

*_FIRST, _LAST = JOBS
HELP = f"Run a flow of {', '.join(_FIRST)} and {_LAST}; what is done is not done again."


def run_flow(
    flow: Annotated[str, typer.Argument(help="Spec file (YAML) with `steps`.")],
    set_: Sets = None,
    allow_alerts: AllowAlerts = False,
    allow_code: AllowCode = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the specs of all steps only.")
    ] = False,
) -> None:
    """Run a flow of jobs; what is done is not done again."""
    from stx.pipelines.flow import FlowSpec, read_steps
    from stx.pipelines.spec.file import parse_spec
    from stx.pipelines.telemetry.report import Report

    steps = read_steps(parse_spec(spec_values("run", flow), set_ or [], flow, FlowSpec), flow)
    if dry_run:
        for number, step in enumerate(steps, 1):
            say(f"step {number} of {len(steps)}: {step.job}, its spec is valid")
        return
    for step in steps:
        check_trust(step.spec, f"{flow} ({step.job})", alerts=allow_alerts, code=allow_code)
    prepare()
    too_many = False
    for number, step in enumerate(steps, 1):
        say(f"step {number} of {len(steps)}: {step.job}")
        began = None if number == 1 else time.monotonic()
        done = run_spec(step.job, step.run, step.spec, began=began)
        if isinstance(done, Report):
            limit = getattr(step.spec.output, "max_quarantined", 1.0)  # type: ignore[attr-defined]
            too_many = too_many or done.quarantined_share > limit
        elif done is not None:
            print(done.markdown, end="")
    if too_many:
        print("stx: more rows are quarantined than output.max_quarantined", file=sys.stderr)
        raise typer.Exit(3)
