"""``stx``: the commands."""

from collections.abc import Callable
from inspect import getdoc
from pkgutil import resolve_name
from typing import Annotated

import typer

from stx.jobs.bench import bench
from stx.jobs.diff import diff
from stx.jobs.doctor import doctor
from stx.jobs.ending import end_after
from stx.jobs.evaluate import evaluate
from stx.jobs.exit_codes import run_application
from stx.jobs.export import export
from stx.jobs.gc import gc
from stx.jobs.import_ranking import import_ranking
from stx.jobs.init import init
from stx.jobs.rollback import rollback
from stx.jobs.run import HELP, run_flow
from stx.jobs.runs import spec_command
from stx.jobs.search import search
from stx.jobs.show import show
from stx.jobs.spec import spec
from stx.jobs.submit import submit
from stx.jobs.terminal import say
from stx.jobs.verify import verify
from stx.pipelines.jobs import with_commands
from stx.version import __version__


def _version(value: bool) -> None:  # noqa: FBT001  (typer calls it)
    if value:
        say(f"stx {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def application() -> typer.Typer:
    """All commands: of the table of jobs, then those that run no single job of a spec."""
    app = typer.Typer(
        help="Turn data lakes of text into embeddings and sparse vectors.",
        no_args_is_help=True,
        rich_markup_mode=None,  # rich's help costs half a second at every start
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)

    def add(name: str, command: Callable[..., None], text: str | None = None) -> None:
        # A short help that is given is wrapped; one that click takes of the text is cut off.
        text = text or getdoc(command) or ""
        short = " ".join(text.split("\n\n")[0].split())
        app.command(name, help=text, short_help=short)(command)

    for name, job in with_commands().items():
        command = spec_command(name) if job.command is None else resolve_name(job.command)
        add(name, command, job.help)
    add("run", run_flow, HELP)
    add("init", init)
    for command in (submit, show, diff, search, evaluate, export):
        add(command.__name__, command)
    add("import", import_ranking)
    for command in (doctor, bench, verify, rollback, gc):
        add(command.__name__, command)
    app.add_typer(spec, name="spec")
    return app


def main() -> None:
    """Entry point of the ``stx`` script."""
    end_after(lambda: run_application(application()))


if __name__ == "__main__":
    main()
