"""``stx submit``: a spec's job on a Ray cluster, through its job API."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from stx.jobs.runs import AllowAlerts, AllowCode, Sets
from stx.pipelines.jobs import command_names

if TYPE_CHECKING:
    from stx.pipelines.submit.job_api import JobApi

# How long a second Ctrl-C is waited for.
_PATIENCE_S = 5.0


def submit(
    spec: Annotated[str, typer.Argument(help="Spec file (YAML); it is shipped to the cluster.")],
    job: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(command_names())} or run; else what the spec's keys say."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="http://HEAD:8265; else RAY_ADDRESS, else this machine.")
    ] = None,
    set_: Sets = None,
    working_dir: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Ship this folder, the spec in it; heeds .rayignore."),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Kept by Ray with the job, readable by all."),
    ] = None,
    allow_alerts: AllowAlerts = False,
    allow_code: AllowCode = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only, there.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the id, do not wait.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the spec's job that runs.")] = False,
) -> None:
    """Run a spec's job on a cluster; its log comes to stdout, its exit code is that of the job.

    If a job of the same spec is at work, this attaches to it. Ctrl-C leaves the job alone, a
    second one stops it.
    """
    import ray

    from stx.pipelines.submit.job_api import JobApi
    from stx.pipelines.submit.submission import describe

    submission = describe(
        spec,
        job,
        list(set_ or []),
        folder=working_dir,
        user_metadata=list(metadata or []),
        allow_alerts=allow_alerts,
        allow_code=allow_code,
        dry_run=dry_run,
    )
    for hint in submission.hints:
        _say(hint)
    api = JobApi(address)
    if api.version not in (None, ray.__version__):
        _say(f"Ray is {api.version} on the cluster, {ray.__version__} here; the job takes theirs")
    if stop:
        if (running := api.running(submission)) is None:
            _say("no job of this spec is at work")
        else:
            api.stop(running)
            _say(f"{running} is stopped; finished units are kept")
        return
    # Start the job, or find it at work, also where another start is quicker.
    while (id_ := api.running(submission)) is None:
        id_ = api.next_id(submission)
        print(submission.ray_command(api.address, id_), file=sys.stderr, flush=True)
        if api.start(submission, id_):
            _say(f"submitted {id_}")
            break
    else:
        _say(f"{id_} is at work on this spec: attached to it")
    if no_wait:
        print(id_)
        return
    raise typer.Exit(_wait(api, id_))


def _say(line: str) -> None:
    """To stderr: stdout is the job's."""
    print(f"stx: {line}", file=sys.stderr, flush=True)


def _wait(api: "JobApi", id_: str) -> int:
    """Print the job's log until it ends, or Ctrl-C is pressed; the exit code."""
    try:
        for piece in api.log(id_):
            print(piece, end="", flush=True)
        code, line = api.exit_code(id_)
    except KeyboardInterrupt:
        try:
            _say(
                f"{id_} goes on; the same command attaches to it again. To stop it: Ctrl-C again, "
                f"or ray job stop --address {api.shown_address} {id_}"
            )
            time.sleep(_PATIENCE_S)
        except KeyboardInterrupt:
            api.stop(id_)
            code, line = api.exit_code(id_)
        else:
            return 130
    _say(line)
    return code
