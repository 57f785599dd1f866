"""Write the demo corpus: what the docstrings of Python's standard library say, as Parquet shards.

Real text that every machine has: about 3,500 documents with a name and a text.
"""

import ast
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SHARDS = 4
MIN_CHARACTERS = 40
SKIPPED = {
    *("__pycache__", "site-packages", "test", "tests"),
    *("distutils", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtle", "turtledemo"),
}

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documents(library: Path) -> Iterator[tuple[str, str]]:
    """Name and docstring of each public module, class and function, in a fixed order."""
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        names = parts[:-1] if parts[-1] == "__init__" else parts
        if SKIPPED & set(parts) or any(name.startswith("_") for name in names):
            continue
        try:
            module = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        yield from walk(module, ".".join(names))


def walk(node: Documented, name: str) -> Iterator[tuple[str, str]]:
    """The docstring of a node, then those of the public classes and functions in it."""
    text = ast.get_docstring(node)
    if text and len(text) >= MIN_CHARACTERS:
        yield name, text
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if named and not child.name.startswith("_"):
            yield from walk(child, f"{name}.{child.name}")


def main(folder: Path) -> None:
    """Write the shards into `folder`; ids are unique, also where a name occurs twice."""
    rows = list(documents(Path(sysconfig.get_path("stdlib"))))
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "id": pa.array(range(len(rows)), pa.int64()),
            "name": [name for name, _ in rows],
            "text": [text for _, text in rows],
        }
    )
    size = -(-len(rows) // SHARDS)
    for shard in range(SHARDS):
        pq.write_table(table.slice(shard * size, size), folder / f"part-{shard}.parquet")
    sys.stdout.write(f"{len(rows)} documents in {SHARDS} shards: {folder}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
