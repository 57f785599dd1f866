"""Methods that take turns: each in a process of its own, one working at a time.

A benchmark script calls `compare`; it is started again for each method with ``--method NAME``, does
one turn for each line on its input, and prints what the turn took. So a noisy moment of the machine
hits all methods, and each one's memory is its own.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

Turn = Callable[[], Any]

_ROOT = str(Path(__file__).parent.parent)


def threads_of(arguments: argparse.Namespace) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    return dict.fromkeys(names, str(arguments.threads)) | {"TOKENIZERS_PARALLELISM": "true"}


def parser(description: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--threads", type=int, default=2, help="cores that each method may use")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--json", help="file for the result")
    made.add_argument("--method", help=argparse.SUPPRESS)
    return made


def peak_mb() -> float:
    """Of this process; not by getrusage, which starts with the peak of who started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def serve(prepare: Callable[[], Turn], describe: Callable[[Any], Any]) -> None:
    """Be a method: prepare, warm up, then one turn per line."""
    turn = prepare()
    result = turn()
    print(json.dumps({"result": describe(result)}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        turn()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "peak_mb": peak_mb()}), flush=True)


class Method:
    """A process that waits for its turn."""

    def __init__(self, name: str, arguments: argparse.Namespace, python: str) -> None:
        command = [python, sys.argv[0], *sys.argv[1:], "--method", name]
        self.process = subprocess.Popen(
            command,
            env=os.environ | threads_of(arguments) | {"PYTHONPATH": _ROOT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.name = name
        self.result = self._answer()["result"]
        self.seconds: list[float] = []
        self.peak_mb = 0.0

    def turn(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.seconds.append(answer["seconds"])
        self.peak_mb = answer["peak_mb"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self.name} ended with exit code {self.process.wait()}")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def compare(
    names: Sequence[str], arguments: argparse.Namespace, pythons: Mapping[str, str] | None = None
) -> list[Method]:
    """Start all methods, one after the other, and let them take turns."""
    methods = []
    try:
        for name in names:
            print(f"preparing {name} ...", file=sys.stderr, flush=True)
            methods.append(Method(name, arguments, (pythons or {}).get(name, sys.executable)))
        for number in range(arguments.rounds):
            for method in methods:
                method.turn()
                took = f"{method.seconds[-1]:.2f} s"
                print(f"round {number + 1}: {method.name} {took}", file=sys.stderr, flush=True)
    finally:
        for method in methods:
            method.end()
    return methods


def machine(threads: int) -> str:
    """In words, with the class that decides which column of a table of targets holds."""
    from stx_core.machine import cpu_class, cpu_name

    kind = {"amx": "AMX", "avx512-bf16": "AVX-512 BF16, no AMX", "other": "no bfloat16 units"}
    cores = f"{os.cpu_count()} cores, {len(os.sched_getaffinity(0))} of them pinned"
    return f"{cpu_name()} ({kind[cpu_class()]}), {platform.machine()}, {cores}, {threads} threads"


def versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def finish(summary: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    """Print the summary, and write it."""
    head = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(arguments.threads),
        "load": os.getloadavg()[0],
    }
    text = json.dumps(head | dict(summary), indent=2)
    print(text)
    if arguments.json:
        Path(arguments.json).write_text(text + "\n")


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
