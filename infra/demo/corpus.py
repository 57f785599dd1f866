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
QUERY_EVERY = 7
QUERY_CHARACTERS = (40, 120)
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


def queries(rows: list[tuple[str, str]]) -> Iterator[tuple[int, str]]:
    """Number and first sentence of some documents: what somebody may ask who looks for them."""
    for number in range(0, len(rows), QUERY_EVERY):
        summary = " ".join(rows[number][1].split("\n\n")[0].split())
        if QUERY_CHARACTERS[0] <= len(summary) <= QUERY_CHARACTERS[1]:
            yield number, summary


def main(folder: Path) -> None:
    """Write shards into `folder`, queries and judgements beside it.

    Ids are unique, also where a name occurs twice.
    """
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
    asked = list(queries(rows))
    ids = [f"q{number}" for number, _ in asked]
    texts = [text for _, text in asked]
    pq.write_table(pa.table({"id": ids, "text": texts}), folder.parent / "queries.parquet")
    lines = ["query-id\tcorpus-id\tscore", *(f"q{number}\t{number}\t1" for number, _ in asked)]
    (folder.parent / "qrels.tsv").write_text("\n".join(lines) + "\n")
    sys.stdout.write(
        f"{len(rows)} documents in {SHARDS} shards: {folder}; {len(asked)} queries beside them\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
