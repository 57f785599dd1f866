"""Shared library of the kernels: built once with the machine's compiler.

    python -m stx_core.inference.kernel_library

builds it beside its sources, for images that are to run without a compiler.
"""

import grp
import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

SOURCES = Path(__file__).with_name("kernels")
COMPILER_FLAGS = (
    "-std=c++17", "-O3", "-fPIC", "-fopenmp", "-mavx512f", "-mavx512bw", "-mavx512vl",
    "-mavx512dq", "-mavx512bf16", "-mfma",
)  # fmt: skip
_BUILD_TIMEOUT_S = 120


def built() -> Path:
    """Path of the shared library of exactly these sources, built when there is none.

    Raises:
        OSError: there is no compiler, or no folder to write to.
        SubprocessError: it fails.
    """
    shipped = SOURCES / _file_name(COMPILER_FLAGS)
    return shipped if shipped.exists() else build(_cache_folder())


def _file_name(flags: Sequence[str]) -> str:
    texts = [path.read_bytes() for path in sorted(SOURCES.glob("*.[ch]*"))]
    return f"{hashlib.sha256(b''.join(texts) + ' '.join(flags).encode()).hexdigest()[:16]}.so"


def build(folder: Path, flags: Sequence[str] = COMPILER_FLAGS) -> Path:
    """Path of the shared library in a folder, built when it is not there; raises as `built`."""
    path = folder / _file_name(flags)
    if path.exists():
        if path.stat().st_uid not in (0, os.getuid()):
            raise PermissionError(f"{path}: belongs to somebody else")
        return path
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise FileNotFoundError("no C++ compiler (c++, or the one that CXX names)")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, ThreadPoolExecutor() as pool:
        steps = []
        for source in SOURCES.glob("*.cpp"):
            target = f"{scratch}/{source.stem}.o"
            command = (compiler, *flags, "-c", str(source), "-o", target)
            steps.append((target, pool.submit(_compile, *command)))
        for _, step in steps:
            step.result()
        # Not linked with OpenMP: it finds the one that torch has loaded. A second one would bring
        # threads of its own, which wait busily while torch's compute.
        library = Path(scratch, "kernels.so")
        _compile(compiler, "-shared", *(target for target, _ in steps), "-o", str(library))
        library.rename(path)
    return path


def _compile(*command: str) -> None:
    # The compiler looks for headers in its own folder where CPATH has an empty entry.
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        timeout=_BUILD_TIMEOUT_S,
        cwd=SOURCES,
    )


def reason(error: OSError | subprocess.SubprocessError) -> str:
    """Line of the compiler's output, or of the error, that says why nothing was built."""
    output = str(getattr(error, "stderr", None) or error).strip()
    return next((line for line in output.splitlines() if "error:" in line), output)


def _cache_folder() -> Path:
    """Of this user: what lies there is loaded as code.

    Raises:
        PermissionError: it, or a folder above it, belongs to somebody else or can be written by
            others, who could put another one in its place.
    """
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(os.path.abspath(base), "stx", "native")
    if folder.exists():
        status = folder.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise PermissionError(f"{folder}: others could write to it")
    # Of a link both ways count: to where it stands, and to where it leads.
    for above in {*folder.parents, *folder.resolve().parents}:
        if above.exists() and _is_open_to_others(above.stat()):
            raise PermissionError(
                f"{folder}: others could replace it, as they may write to {above}"
            )
    return folder


def _is_open_to_others(status: os.stat_result) -> bool:
    """Tell whether somebody but this user and root can replace what is in a folder."""
    if status.st_uid not in (0, os.getuid()):
        return True
    if status.st_mode & stat.S_ISVTX:
        return False  # as /tmp is: everybody may add, nobody may replace what is another's
    own_group = status.st_gid == 0
    with suppress(KeyError):
        # Distributions give each user a group of the user's name.
        user = pwd.getpwuid(os.getuid())
        private = grp.getgrgid(user.pw_gid).gr_name == user.pw_name
        own_group = own_group or (private and status.st_gid == user.pw_gid)
    return bool(status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and not own_group))


if __name__ == "__main__":
    build(SOURCES)
