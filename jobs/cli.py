"""``stx``: the commands."""

from pkgutil import resolve_name

import typer

from stx.jobs import bench, evaluate, export, gc, rollback, search, show, submit, verify
from stx.jobs.ending import end_after
from stx.jobs.exit_codes import run_application
from stx.jobs.import_ranking import import_ranking
from stx.jobs.run import HELP, run_flow
from stx.jobs.runs import spec_command
from stx.jobs.spec import spec
from stx.pipelines.jobs import with_commands


def application() -> typer.Typer:
    """All commands: of the table of jobs, then those that run no single job of a spec."""
    app = typer.Typer(
        help="Turn data lakes of text into embeddings and sparse vectors.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,  # rich's help costs half a second at every start
        pretty_exceptions_enable=False,
    )
    for name, job in with_commands().items():
        command = spec_command(name) if job.command is None else resolve_name(job.command)
        app.command(name, help=job.help)(command)
    app.command("run", help=HELP)(run_flow)
    app.command()(submit.submit)
    app.command()(show.show)
    app.command()(search.search)
    app.command()(evaluate.evaluate)
    app.command()(export.export)
    app.command("import")(import_ranking)
    app.command()(bench.bench)
    app.command()(verify.verify)
    app.command()(rollback.rollback)
    app.command()(gc.gc)
    app.add_typer(spec, name="spec")
    return app


def main() -> None:
    """Entry point of the ``stx`` script."""
    end_after(lambda: run_application(application()))


if __name__ == "__main__":
    main()
