"""``stx mine``: hard negatives out of rankings."""

from typing import Annotated

import typer

from jobs.encode import AllowAlerts, Sets


def mine(
    spec: Annotated[str, typer.Argument(help="Spec file (YAML).")],
    set_: Sets = None,
    allow_alerts: AllowAlerts = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")] = False,
) -> None:
    """Find hard negatives in committed rankings; commit them with training rows as a snapshot."""
    from jobs.runs import run
    from pipelines.mine import run_mine
    from pipelines.spec.retrieval import MineSpec

    run(run_mine, spec, list(set_ or []), MineSpec, allow_alerts=allow_alerts, dry_run=dry_run)


if __name__ == "__main__":
    from jobs.cli import run_alone

    run_alone(mine)
