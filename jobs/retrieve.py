"""``stx retrieve``: the best documents of every query."""

from typing import Annotated

import typer

from jobs.encode import AllowAlerts, Sets


def retrieve(
    spec: Annotated[str, typer.Argument(help="Spec file (YAML).")],
    set_: Sets = None,
    allow_alerts: AllowAlerts = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")] = False,
) -> None:
    """Find the best documents of every query, exactly; commit the rankings as a snapshot."""
    from jobs.runs import run
    from pipelines.retrieve import run_retrieve
    from pipelines.spec.retrieval import RetrieveSpec

    run(
        run_retrieve,
        spec,
        list(set_ or []),
        RetrieveSpec,
        allow_alerts=allow_alerts,
        dry_run=dry_run,
    )


if __name__ == "__main__":
    from jobs.cli import run_alone

    run_alone(retrieve)
