"""Common parts of the commands that run a job from a spec."""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stx.jobs.status import process_began, status_shown
from stx.jobs.terminal import say
from stx.pipelines.jobs import JOBS, job_of
from stx.pipelines.running.activity import phase

if TYPE_CHECKING:
    from pydantic import BaseModel

AcceptQuality = Annotated[
    bool, typer.Option("--accept-quality", help="Commit what the spec's checks refuse.")
]
AllowAlerts = Annotated[
    bool,
    typer.Option("--allow-alerts", help="Trust the spec's `alerts`: a program, a URL, variables."),
]
AllowCode = Annotated[
    bool,
    typer.Option("--allow-code", help="Trust the spec's `inputs.map`: run what it names."),
]
IdColumn = Annotated[str | None, typer.Option(help="Column of the ids.")]
TextColumns = Annotated[
    list[str] | None, typer.Option(help="Column of the texts; of several, all are joined.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a spec value.")
]


def spec_command(name: str) -> Callable[..., None]:
    """The command of a job of the table that takes its spec, and no options of its own."""

    def command(
        spec: Annotated[str, typer.Argument(help="Spec file (YAML).")],
        set_: Sets = None,
        accept_quality: AcceptQuality = False,
        allow_alerts: AllowAlerts = False,
        allow_code: AllowCode = False,
        dry_run: DryRun = False,
    ) -> None:
        from stx.pipelines.spec.file import parse_spec

        job = JOBS[name]
        accept = ["quality.accept=true"] if accept_quality else []
        overrides = [*(set_ or []), *accept]
        values = parse_spec(spec_values(name, spec), overrides, spec, job.spec_class())
        check_trust(values, spec, alerts=allow_alerts or dry_run, code=allow_code)
        prepare()
        with phase("loading the libraries"):
            function = job.run_function()
        run_spec(name, function, values, dry_run=dry_run)

    return command


def spec_values(name: str, path: str) -> dict[str, Any]:
    """The values of a spec file, see `stx.pipelines.spec.file.read_values`.

    Args:
        name: of the job whose command it was given to.
        path: of the file.

    Raises:
        SpecError: as there; the file is data; the spec is of another job.
    """
    from stx.pipelines.spec.file import read_values
    from stx_core.errors import InputError, SpecError
    from stx_core.store.corpus.readers import format_of

    with suppress(InputError):
        raise SpecError(
            f"{path} is data ({format_of(path)}), not a spec: `stx encode {path} OUTPUT --model "
            f"NAME` encodes it, `stx init {path} encode.yaml` writes a spec for it"
        )
    values = read_values(path)
    other = job_of(values)
    # The spec of a plug-in's job may have keys of jobs above it.
    is_of_plugin = name in JOBS.plugins and JOBS[name].key in values
    if other not in (None, name) and not is_of_plugin:
        raise SpecError(f"{path} is a spec of another job: run `stx {other} {path}`")
    return values


def check_trust(spec: "BaseModel", source: str, *, alerts: bool, code: bool) -> None:
    """Refuse a spec with alerts, or code, that the command line does not allow."""
    from stx.pipelines.spec.alerts import refuse_alerts
    from stx.pipelines.spec.code import refuse_code

    if not alerts:
        refuse_alerts(spec, source)
    if not code:
        refuse_code(spec, source)


def prepare() -> None:
    """Set up the logs, and what signals do; once per process."""
    from stx.jobs.logs import configure_logging
    from stx.pipelines.running.stopping import exit_on_signals

    configure_logging()
    exit_on_signals()


def run_spec(
    name: str,
    job: Callable[..., Any],
    spec: "BaseModel",
    *,
    began: float | None = None,
    **options: bool,
) -> Any:  # noqa: ANN401
    """Run a job; the plan, its progress and its report go to the console.

    Args:
        name: of the job, as alerts tell it.
        job: the function.
        spec: of it.
        began: `time.monotonic` when it was asked for; None for when this process started, so that
            the seconds of the report are those that a person waited.
        **options: of the job.

    Returns:
        What the job returns; None when another start of the same run is at work.
    """
    from stx.jobs.console import Console
    from stx.pipelines.running.stopping import at_stop
    from stx.pipelines.telemetry.alerts import tell_failure, tell_report
    from stx.pipelines.telemetry.report import Report
    from stx_core.errors import Pinned, RunActive, Stopped

    resources = getattr(spec, "resources", None)
    if began is None:
        began = process_began()
    console = Console(getattr(resources, "cost_per_hour", None), began)
    silent = options.get("dry_run", False)
    try:
        with status_shown(began) as status, at_stop(status.stop):
            done = job(spec, console, **options)
    except RunActive as active:
        say(f"nothing to do: {active}")
        return None
    except (Pinned, Stopped):
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
