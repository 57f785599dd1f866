"""What the commands share that run a job from a spec file."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel

    from pipelines.report import Report


def run(
    job: "Callable[..., Report]",
    path: str,
    overrides: Sequence[str],
    kind: "type[BaseModel]",
    *,
    dry_run: bool,
) -> None:
    """Run a job; the plan, its progress and its report go to the console."""
    from jobs.console import Console, configure_logging
    from pipelines.spec_file import load_spec
    from pipelines.stopping import exit_on_signals
    from stx_core.errors import RunActive

    spec = load_spec(path, overrides, kind)
    configure_logging()
    exit_on_signals()
    console = Console()
    try:
        report = job(spec, console, dry_run=dry_run)
    except RunActive as active:
        print(f"nothing to do: {active}")
        return
    console.report(report)
