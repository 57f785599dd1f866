"""Search path of modules without the folder that a command happens to be started in.

That folder may be a downloaded model, and ``numpy.py`` in it would run instead of numpy. Python
puts it first for ``python -m`` and ``-c``, and for an empty entry of PYTHONPATH; Ray hands it to
its workers. Who wants modules of their own to be found there names the folder in PYTHONPATH, as an
absolute path; in a clone of stx it is the folder that stx itself is run from.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# The module is found as stx.pipelines.running.safe_path, in a clone through a link.
_OWN_ROOT = os.path.realpath(Path(__file__).absolute().parents[3])

# What Python reads where somebody may have set it.
_VARIABLES = ("PYTHONSAFEPATH", "PYTHONPATH")


def safe_entries(path: Iterable[str]) -> list[str]:
    """Entries of a module search path as absolute folders, without the current one."""
    here = os.path.realpath(os.curdir)
    named = filter(os.path.isabs, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if here == _OWN_ROOT or here in map(os.path.realpath, named):
        return [os.path.abspath(entry) for entry in path]
    return [os.path.abspath(entry) for entry in path if os.path.realpath(entry or ".") != here]


def child_environment() -> dict[str, str]:
    """Variables for a Python child that finds the same modules as this process, and no others."""
    return {
        **os.environ,
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(safe_entries(sys.path)),
    }


@contextmanager
def safe_environment() -> Iterator[None]:
    """Let what other libraries start in the block look for modules as safely as our own children.

    Python's own variables stay as they are for those whose current folder is on no path.
    """
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ["PYTHONSAFEPATH"] = "1"
    if before["PYTHONPATH"] is not None:
        entries = safe_entries(before["PYTHONPATH"].split(os.pathsep))
        os.environ["PYTHONPATH"] = os.pathsep.join(entries)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
