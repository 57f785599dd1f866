"""The commit of a folder, asked of git without running what the folder's own settings name.

A repository that somebody else made may name programs in its settings and hooks: git runs them to
look for changed files (``core.fsmonitor``), to compare them (``filter.*``), after it has looked
(``post-index-change``), in submodules, and to fetch what a partial clone left out.
"""

import os
import subprocess
from collections.abc import Mapping

_TIMEOUT_S = 10.0

_NO_PROGRAMS = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.sshCommand": "false",
    "safe.bareRepository": "explicit",
}
_NO_NETWORK = {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}


def commit_of(folder: str) -> str | None:
    """The commit, with ``-dirty`` behind it where tracked files differ; None outside of git."""
    try:
        names = _git(folder, "config", "--list", "--name-only", "-z", settings={}).split("\0")
        drivers = {n.rpartition(".")[0] for n in names if n.lower().startswith("filter.")}
        # Switches every filter off, however it is named.
        off = {"clean": "", "smudge": "", "process": "", "required": "false"}
        filters = {f"{driver}.{key}": value for driver in drivers for key, value in off.items()}
        commit = _git(folder, "rev-parse", "--verify", "HEAD", settings=filters).strip()
        # Without optional locks the index is not written, which a hook could wait for.
        options = ("--porcelain", "--untracked-files=no", "--ignore-submodules=all")
        changed = _git(folder, "--no-optional-locks", "status", *options, settings=filters)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return f"{commit}-dirty" if changed else commit


def _git(folder: str, *arguments: str, settings: Mapping[str, str]) -> str:
    # Not as `-c name=value`: the name of a filter may hold a "=".
    everything = _NO_PROGRAMS | dict(settings)
    variables = {"GIT_CONFIG_COUNT": str(len(everything))}
    for number, (name, value) in enumerate(everything.items()):
        variables |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    done = subprocess.run(
        ["git", "-C", folder, *arguments],
        env=os.environ | _NO_NETWORK | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=True,
    )
    return done.stdout
