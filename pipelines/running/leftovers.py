"""Ray's processes that a killed start left on this machine: the next start ends them.

Ray of this machine alone is started by the driver, and lives on when the driver is killed. Each
start therefore notes its session, by whose name Ray's processes can be told from all others; the
next start of the same user ends those of sessions whose start has provably ended.
"""

import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from stx_core.errors import StoreError
from stx_core.store.beat import is_gone, this_process
from stx_core.store.files.local_disk import own_folder, replace
from stx_core.store.sealed import decode

logger = logging.getLogger(__name__)

_FOLDER = "stx-ray"
# Of a raylet, to end its workers.
_PATIENCE_S = 5.0
_POLL_S = 0.05
_RAYLET = b"RAY_RAYLET_PID="
_OPTIONS = ("--session-name=", "--session-dir=", "--session_dir=")


def note_session(session: str) -> None:
    """Remember a session of Ray that this process has started.

    Nothing forgets it when the process ends as it should: the next start finds no processes then.
    """
    try:
        path = os.path.join(own_folder(_FOLDER), f"{session}.json")
        replace(path, json.dumps({"session": session, "writer": this_process()}).encode())
    except (StoreError, OSError) as error:
        logger.info("this start of Ray could not be noted: %s", error)


def end_leftovers() -> int:
    """End Ray's processes of this user's starts that are gone; how many."""
    try:
        notes = sorted(Path(own_folder(_FOLDER)).glob("*.json"))
    except (StoreError, OSError) as error:
        logger.info("processes that an earlier start left were not looked for: %s", error)
        return 0
    ended = 0
    for path in notes:
        with suppress(OSError):
            note = decode(path.read_bytes())
            if not is_gone(note.get("writer", {})):
                continue
            if n_ended := _end(str(note.get("session", ""))):
                # A raylet may have started another one meanwhile: the next start looks once more.
                ended += n_ended
            else:
                path.unlink()
    if ended:
        logger.info("ended %d processes of Ray that a killed start had left", ended)
    return ended


def _end(session: str) -> int:
    if not session:
        return 0
    alive = first = set(_processes(session))
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in alive:
            with suppress(OSError):
                os.kill(pid, number)
        give_up = time.monotonic() + _PATIENCE_S
        while (alive := set(_processes(session))) and time.monotonic() < give_up:
            time.sleep(_POLL_S)
    return len(first)


def _processes(session: str) -> Iterator[int]:
    """Processes of this user that are part of a session."""
    for folder in Path("/proc").glob("[0-9]*"):
        # Of others, and of those that end meanwhile, nothing can be read.
        with suppress(OSError):
            is_other = folder.stat().st_uid == os.getuid() and int(folder.name) != os.getpid()
            if is_other and _is_of(folder, session):
                yield int(folder.name)


def _is_of(process: Path, session: str) -> bool:
    """True if it is one that the driver started, or a child of the raylet.

    The former have the session among their arguments. The latter, agents and workers, hide their
    arguments; they have a file of the session open.
    """
    # Not any that names it: somebody may read its logs.
    arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    endings = (f"={session}", f"/{session}")
    if any(a.startswith(_OPTIONS) and a.endswith(endings) for a in arguments):
        return True
    if _RAYLET not in (process / "environ").read_bytes():
        return False
    for link in (process / "fd").iterdir():
        with suppress(OSError):
            if f"/{session}/" in os.readlink(link):
                return True
    return False
