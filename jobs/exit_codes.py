"""What an error looks like to the person who typed the command: one line, and an exit code."""

import errno
import sys
from typing import TYPE_CHECKING

from stx.jobs.terminal import filtered
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

if TYPE_CHECKING:
    import typer


def run_application(application: "typer.Typer") -> None:
    """Run a command line; an error of ours is one line on stderr and an exit code.

    Exit codes: 0 done, 1 storage or an internal error, 2 the user's mistake, 3 more rows
    quarantined than allowed, 4 stopped before the end as asked for, 5 refused by a check of the
    spec's `quality`, 6 held by a rollback, 130 interrupted.
    """
    with filtered():
        _run(application)


def _run(application: "typer.Typer") -> None:
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
