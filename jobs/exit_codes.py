"""Errors as the person sees them who typed the command: one line, and an exit code."""

import errno
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from stx.jobs.status import process_began, status_shown
from stx.jobs.terminal import can_draw, filtered
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


_CODES: dict[type[StxError], int] = {
    SpecError: 2,
    ModelError: 2,
    InputError: 2,
    Stopped: 4,
    QualityRefused: 5,
    Pinned: 6,
}


def run_application(application: "typer.Typer") -> None:
    """Run a command line; an error of ours is one line on stderr and an exit code.

    Exit codes: 0 done, 1 storage or an internal error, 2 the user's mistake, 3 more rows
    quarantined than allowed, 4 stopped before the end as asked for, 5 refused by a check of the
    spec's `quality`, 6 held by a rollback, 130 interrupted.
    """
    with filtered(), ExitStack() as stack:
        # Elsewhere than on a terminal only jobs say what they are at.
        if can_draw(sys.stderr):
            stack.enter_context(status_shown(process_began()))
        try:
            application()
        except StxError as error:
            # Not splitlines(): that also breaks at characters that an id can hold.
            for line in str(error).split("\n"):
                print(f"stx: {redact(line)}", file=sys.stderr)
            sys.exit(next((code for kind, code in _CODES.items() if isinstance(error, kind)), 1))
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
