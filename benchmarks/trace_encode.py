"""What one small `run_encode` goes through: `python benchmarks/trace_encode.py`.

Encodes 40 rows with the smallest model in this process and counts, by `sys.setprofile` in every
thread, the functions of our own that ran and the files they stand in. `--list` names the files.
"""

import os
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("stx_core", "pipelines", "jobs", "stx")


def main() -> None:
    """Encode, count and print."""
    sys.path.insert(0, str(ROOT))
    import pyarrow as pa
    import pyarrow.parquet as pq
    from resume import write_model

    from stx.pipelines.encode import run_encode
    from stx.pipelines.spec.file import parse_spec

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        texts = [f"text {i}" for i in range(40)]
        pq.write_table(pa.table({"id": range(40), "text": texts}), folder / "corpus.parquet")
        spec = parse_spec(
            {
                "inputs": {"path": str(folder / "corpus.parquet")},
                "models": {"dense": {"model": str(folder / "model")}},
                "output": {"path": str(folder / "out")},
                "resources": {"runner": "local"},
            }
        )
        ran: set[CodeType] = set()

        def profile(frame: FrameType, event: str, _: object) -> None:
            if event == "call":
                ran.add(frame.f_code)

        threading.setprofile(profile)
        sys.setprofile(profile)
        report = run_encode(spec)
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    assert report.committed, report
    own = [code for code in ran if not code.co_name.startswith("<")]
    files = Counter(path for code in own if (path := own_file(code.co_filename)))
    print(f"functions: {sum(files.values())}, files: {len(files)}")
    if "--list" in sys.argv:
        for path, n in sorted(files.items()):
            print(f"{n:4} {path}")


def own_file(name: str) -> str | None:
    """The file of ours that code comes from, relative to the root."""
    path = os.path.relpath(os.path.realpath(name), ROOT)
    return path if path.split(os.sep)[0] in PACKAGES else None


if __name__ == "__main__":
    main()
