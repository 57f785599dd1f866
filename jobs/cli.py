"""``stx``: the commands."""

from collections.abc import Callable
from inspect import getdoc
from pkgutil import resolve_name
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stx.jobs.ending import end_after
from stx.jobs.exit_codes import run_application
from stx.jobs.run import HELP, run_flow
from stx.jobs.runs import spec_command
from stx.jobs.spec import spec
from stx.jobs.terminal import say
from stx.pipelines.jobs import JOBS
from stx.version import __version__
from stx_core.errors import SpecError

# Commands that run no single job of a spec, in the order of the help; `run` stands before them.
_COMMANDS = {
    "init": "stx.jobs.init:init",
    "submit": "stx.jobs.submit:submit",
    "show": "stx.jobs.show:show",
    "diff": "stx.jobs.diff:diff",
    "search": "stx.jobs.search:search",
    "evaluate": "stx.jobs.evaluate:evaluate",
    "export": "stx.jobs.export:export",
    "import": "stx.jobs.import_ranking:import_ranking",
    "doctor": "stx.jobs.doctor:doctor",
    "bench": "stx.jobs.bench:bench",
    "verify": "stx.jobs.verify:verify",
    "rollback": "stx.jobs.rollback:rollback",
    "forget": "stx.jobs.forget:forget",
    "gc": "stx.jobs.gc:gc",
}


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


class _Commands(TyperGroup):
    """The commands of stx, then jobs of plug-ins, which are imported when they are asked for.

    Contexts and commands are click's, which typer has a copy of, or imports: by its version.
    """

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401
        own = super().list_commands(ctx)
        return [*own, *sorted(JOBS.plugins.keys() - set(own))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        own = super().get_command(ctx, cmd_name)
        if (plugin := JOBS.plugins.get(cmd_name)) is None:
            return own
        app = typer.Typer(
            add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
        )
        try:
            if own is not None:
                raise SpecError(
                    f"job {cmd_name!r} of {plugin.distribution}: stx itself has a command of this "
                    "name; rename the entry point, or uninstall it"
                )
            job = JOBS[cmd_name]
            if job.key is None:
                raise SpecError(
                    f"job {JOBS.with_origin(cmd_name)} is a step of flows only: use `stx run`"
                )
            command = job.command_function() or spec_command(cmd_name)
            text = job.help or getdoc(command) or ""
            app.command(cmd_name, help=f"{text}\n\nOf {plugin.distribution}.")(command)
        except SpecError as error:
            _add_failure(app, cmd_name, error)
        return typer.main.get_command(app)


def _add_failure(app: typer.Typer, name: str, error: SpecError) -> None:
    """A command that says what is wrong: in the list of commands, and when it is run."""

    def fail(ctx: typer.Context) -> None:  # noqa: ARG001  (takes what is given)
        raise error

    takes_all = {"ignore_unknown_options": True, "allow_extra_args": True}
    command = app.command(
        name,
        short_help=f"Cannot be used: {error}",
        add_help_option=False,
        context_settings=takes_all,
    )
    command(fail)


def application() -> typer.Typer:
    """All commands: of the table of jobs, then those that run no single job of a spec."""
    app = typer.Typer(
        cls=_Commands,
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

    for name, job in JOBS.own().items():
        if job.key is not None:
            add(name, job.command_function() or spec_command(name), job.help)
    add("run", run_flow, HELP)
    for name, function in _COMMANDS.items():
        add(name, resolve_name(function))
    app.add_typer(spec, name="spec")
    return app


def main() -> None:
    """Entry point of the ``stx`` script."""
    end_after(lambda: run_application(application()))


if __name__ == "__main__":
    main()
