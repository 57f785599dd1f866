"""Commands of stx in processes of their own that need not import its libraries first.

    python -m tests.servers.forked

One process imports them, and forks for each command that it reads: importing takes longer than most
commands, several seconds with torch. A forked process has arguments, environment, folder, standard
streams and exit code like any other, and ends as an interpreter ends. How an interpreter starts is
not tested by it.
"""

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

_PR_SET_PDEATHSIG = 1
_MODULES = ("stx.jobs.cli", "stx.pipelines.encode", "s3fs", "stx_core.models.sentence_transformer")


class ForkedCommands:
    """Runs commands, one after the other.

    Args:
        folder: for what they print.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.forked"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(
        self, *arguments: object, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `stx` with these arguments, in this folder.

        Args:
            arguments: of the command line.
            environment: all variables; None for those of this process.
        """
        printed = [self._folder / name for name in ("stdout", "stderr")]
        words = list(map(str, arguments))
        request = {
            "arguments": words,
            "environment": dict(os.environ if environment is None else environment),
            "folder": os.getcwd(),
            "printed": list(map(str, printed)),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return subprocess.CompletedProcess(
            words, code, *(path.read_text(errors="replace") for path in printed)
        )

    def close(self) -> None:
        """End the process, and a command that is left in it."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="session")
def stx_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedCommands]:
    """Runs a command in a process of its own; see `ForkedCommands`."""
    commands = ForkedCommands(tmp_path_factory.mktemp("forked"))
    yield commands
    commands.close()


def main() -> None:
    for name in _MODULES:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _become(**json.loads(line))
            return
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()


def _become(
    arguments: list[str], environment: dict[str, str], folder: str, printed: list[str]
) -> None:
    from stx.jobs import cli
    from stx_core import failpoints

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # What was read from the environment before.
    tempfile.tempdir = None
    importlib.reload(failpoints)
    for number, path in enumerate([os.devnull, *printed]):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if number else os.O_RDONLY
        file = os.open(path, flags)
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["stx", *arguments]
    cli.main()


if __name__ == "__main__":
    main()
