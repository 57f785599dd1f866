"""What the commands share that run a job from a spec."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel


def run(
    job: Callable[..., Any],
    path: str,
    overrides: Sequence[str],
    kind: "type[BaseModel]",
    *,
    dry_run: bool,
) -> None:
    """Run a job from a spec file."""
    from pipelines.spec.file import load_spec

    spec = load_spec(path, overrides, kind)
    prepare()
    run_spec(job, spec, dry_run=dry_run)


def prepare() -> None:
    """Set up the logs, and what signals do; once per process."""
    from jobs.console import configure_logging
    from pipelines.running.stopping import exit_on_signals

    configure_logging()
    exit_on_signals()


def run_spec(job: Callable[..., Any], spec: "BaseModel", **options: bool) -> Any:  # noqa: ANN401
    """Run a job; the plan, its progress and its report go to the console.

    Returns:
        What the job returns; None when another start of the same run is at work.
    """
    from jobs.console import Console
    from pipelines.telemetry.alerts import tell_failure, tell_report
    from pipelines.telemetry.report import Report
    from stx_core.errors import RunActive, Stopped

    resources = getattr(spec, "resources", None)
    console = Console(getattr(resources, "cost_per_hour", None))
    name = job.__name__.removeprefix("run_")
    silent = options.get("dry_run", False)
    try:
        done = job(spec, console, **options)
    except RunActive as active:
        print(f"nothing to do: {active}")
        return None
    except Stopped:
        raise  # as asked for
    except Exception as error:
        if not silent:
            tell_failure(name, spec, error)
        raise
    if isinstance(done, Report):
        console.report(done)
        if not silent:
            tell_report(name, spec, done)
    return done
