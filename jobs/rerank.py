"""``stx rerank``: cross-encoder scores of candidates."""

from typing import Annotated

import typer

from jobs.encode import AllowAlerts, Sets


def rerank(
    spec: Annotated[str, typer.Argument(help="Spec file (YAML).")],
    set_: Sets = None,
    allow_alerts: AllowAlerts = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")] = False,
) -> None:
    """Score candidates by cross-encoders; commit the new rankings as a snapshot."""
    from jobs.runs import run
    from pipelines.rerank import run_rerank
    from pipelines.spec.retrieval import RerankSpec

    run(run_rerank, spec, list(set_ or []), RerankSpec, allow_alerts=allow_alerts, dry_run=dry_run)


if __name__ == "__main__":
    from jobs.cli import run_alone

    run_alone(rerank)
