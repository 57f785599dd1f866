"""``stx``: the commands, and what an error looks like to the person who typed them."""

import errno
import sys
from collections.abc import Callable

import typer

from jobs import (
    bench,
    encode,
    evaluate,
    export,
    gc,
    mine,
    rerank,
    retrieve,
    rollback,
    search,
    show,
    submit,
    verify,
)
from jobs.ending import end_after
from jobs.import_ranking import import_ranking
from jobs.run import run_flow
from jobs.spec import spec
from jobs.terminal import filtered
from stx_core.errors import (
    InputError,
    ModelError,
    Pinned,
    QualityRefused,
    SpecError,
    Stopped,
    StxError,
)
from stx_core.store.files.urls import redact

app = typer.Typer(
    help="Turn data lakes of text into embeddings and sparse vectors.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich's help costs half a second at every start
    pretty_exceptions_enable=False,
)
app.command()(encode.encode)
app.command()(retrieve.retrieve)
app.command()(rerank.rerank)
app.command()(mine.mine)
app.command("run")(run_flow)
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


def run(application: typer.Typer) -> None:
    """Run a command line; an error of ours is one line on stderr and an exit code.

    Exit codes: 0 done, 1 storage or an internal error, 2 the user's mistake, 3 more rows
    quarantined than allowed, 4 stopped before the end as asked for, 5 refused by a check of the
    spec's `quality`, 6 held by a rollback, 130 interrupted.
    """
    with filtered():
        _run(application)


def _run(application: typer.Typer) -> None:
    try:
        application()
    except Stopped as stopped:
        print(f"stx: {redact(str(stopped))}", file=sys.stderr)
        sys.exit(4)
    except StxError as error:
        # Not splitlines(): that also breaks at characters that an id can hold.
        for line in str(error).split("\n"):
            print(f"stx: {redact(line)}", file=sys.stderr)
        sys.exit(_exit_code(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" of {error.filename}" if error.filename else ""
        print(
            f"stx: no space left on the disk{where}: free some, or use another folder, and run "
            "again; finished units are kept",
            file=sys.stderr,
        )
        sys.exit(1)
    except KeyboardInterrupt:
        print("stx: interrupted; finished units are kept, run again to go on", file=sys.stderr)
        sys.exit(130)


def _exit_code(error: StxError) -> int:
    if isinstance(error, QualityRefused):
        return 5
    if isinstance(error, Pinned):
        return 6
    return 2 if isinstance(error, (SpecError, ModelError, InputError)) else 1


def run_alone(command: Callable[..., None]) -> None:
    """Run one command as a program of its own, for ``python -m jobs.encode``."""
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command()(command)
    end_after(lambda: run(alone))


def main() -> None:
    """Entry point of the ``stx`` script."""
    end_after(lambda: run(app))


if __name__ == "__main__":
    main()
