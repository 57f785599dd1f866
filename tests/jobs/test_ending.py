"""A command's process ends with the command's exit code, whatever happens behind it."""

import subprocess
import sys

import pytest

# What ends the interpreter badly once it takes itself apart, as a thread of a library may.
ABORTS = """
import builtins, os, sys, threading, time
class Aborts:
    def __del__(self): os.abort()
builtins.aborts = Aborts()
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
from stx.jobs.ending import end_after
def command():
    print("done", end="")
    print("said", file=sys.stderr, end="")
    {end}
end_after(command)
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("pass", 0),
        ("sys.exit(4)", 4),
        ("sys.exit()", 0),
        ("sys.exit('reason')", 1),
        ("raise RuntimeError('s3://me:s3cret@bucket \\x1b[2J')", 1),
    ],
)
def test_the_exit_code_is_the_commands_and_all_it_printed_arrives(end, code):
    script = ABORTS.format(end=end)

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert done.returncode == code
    assert done.stdout == "done"
    assert done.stderr.startswith("said")
    assert "s3cret" not in done.stderr
    assert "\x1b" not in done.stderr
    assert ("RuntimeError: s3://…@bucket" in done.stderr) == ("RuntimeError" in end)


def test_atexit_handlers_of_the_command_are_called():
    script = (
        "import atexit\nfrom stx.jobs.ending import end_after\n"
        "end_after(lambda: atexit.register(lambda: print('called')))"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "called\n")
