"""``stx run``: several jobs from one spec file."""

import sys
from typing import Annotated

import typer

from jobs.encode import Sets


def run_flow(
    flow: Annotated[str, typer.Argument(help="Spec file (YAML) with `steps`.")],
    set_: Sets = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the specs of all steps only.")
    ] = False,
) -> None:
    """Run a flow of encode, retrieve, rerank, mine and evaluate; what is done is not done again."""
    from jobs.console import Console, configure_logging
    from pipelines.flow import FlowSpec, read_steps
    from pipelines.report import Report
    from pipelines.spec_file import load_spec
    from pipelines.stopping import exit_on_signals
    from stx_core.errors import RunActive

    steps = read_steps(load_spec(flow, list(set_ or []), FlowSpec), flow)
    if dry_run:
        for number, step in enumerate(steps, 1):
            print(f"step {number} of {len(steps)}: {step.job}, its spec is valid")
        return
    configure_logging()
    exit_on_signals()
    too_many = False
    for number, step in enumerate(steps, 1):
        print(f"step {number} of {len(steps)}: {step.job}", flush=True)
        console = Console()
        try:
            done = step.run(step.spec, console)
        except RunActive as active:
            print(f"nothing to do: {active}")
            continue
        if isinstance(done, Report):
            console.report(done)
            limit = getattr(step.spec.output, "max_quarantined", 1.0)  # type: ignore[attr-defined]
            too_many = too_many or done.quarantined_share > limit
        else:
            print(done.markdown, end="")
    if too_many:
        print("stx: more rows are quarantined than output.max_quarantined", file=sys.stderr)
        raise typer.Exit(3)


if __name__ == "__main__":
    from jobs.cli import run_alone

    run_alone(run_flow)
