"""The shape of the code in numbers: `python benchmarks/shape.py [FOLDER …] [--list]`.

Only the parser runs. A helper is a private function; its callers are the places of its own file
that name it. `--list` names what could be made less: helpers with one caller and their number of
lines, calls with six positional arguments, `dict[str, Any]`.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("stx_core", "pipelines", "jobs", "stx")
JOBS = ("encode", "retrieve", "rerank", "mine", "sample")
VAGUE = (
    *("found", "told", "held", "some", "each", "known", "one", "other", "others", "mine"),
    *("ours", "theirs", "wanted", "asked", "left", "kept"),
)


def main() -> None:
    """Print all figures, by package where that says something."""
    folders = [a for a in sys.argv[1:] if a != "--list"]
    for job in JOBS if not folders else ():
        lines = (ROOT / f"pipelines/{job}.py").read_text().splitlines()
        print(f"lines of pipelines/{job}.py: {len(lines)}")
    for folder in folders or PACKAGES:
        trees = {path: ast.parse(path.read_text()) for path in python_files(ROOT / folder)}
        print(folder)
        for name, value in figures(trees).items():
            print(f"  {name}: {value}")
        if "--list" in sys.argv:
            print(*listed(trees), sep="\n")


def python_files(folder: Path) -> list[Path]:
    """Files of a folder, or the file itself; stx/pipelines and stx/jobs are links, left out."""
    if folder.is_file():
        return [folder]
    return [p for p in sorted(folder.rglob("*.py")) if not any(q.is_symlink() for q in p.parents)]


def figures(trees: dict[Path, ast.Module]) -> dict[str, str]:
    """What is counted, in words, and the number."""
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    n_lines = sum(len(path.read_text().splitlines()) for path in trees)
    n_functions = sum(isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) for n in nodes)
    n_single = sum(len(single_caller_helpers(tree)) for tree in trees.values())
    own = {path: own_imports(tree) for path, tree in trees.items()}
    most = max(own, key=lambda path: own[path])
    names = list(bound(nodes))
    vague = sum(name in VAGUE for name in names)
    return {
        "lines": f"{n_lines:,}",
        "functions per 1,000 lines": f"{1000 * n_functions / n_lines:.1f} ({n_functions})",
        "dict[str, Any] per 1,000 lines": f"{1000 * sum(map(is_loose, nodes)) / n_lines:.1f}",
        "helpers with one caller, of all functions": f"{n_single / max(1, n_functions):.1%}",
        "calls with six or more positional arguments": f"{sum(map(is_positional, nodes))}",
        "most modules of our own imported by a file": f"{own[most]} ({most.relative_to(ROOT)})",
        "vague names among those that are bound": f"{vague / max(1, len(names)):.1%}",
    }


def listed(trees: dict[Path, ast.Module]) -> Iterator[str]:
    """A line for what could be made less, with its place."""
    for path, tree in trees.items():
        place = path.relative_to(ROOT)
        for helper in single_caller_helpers(tree):
            n_lines = (helper.end_lineno or 0) - helper.lineno + 1
            yield f"  {place}:{helper.lineno} {helper.name}: one caller, {n_lines} lines"
        for node in ast.walk(tree):
            if is_positional(node):
                yield f"  {place}:{node.lineno} six positional arguments"
            elif is_loose(node):
                yield f"  {place}:{node.lineno} dict[str, Any]"
            elif isinstance(node, ast.Name | ast.arg) and set(bound([node])) & set(VAGUE):
                yield f"  {place}:{node.lineno} vague name {ast.unparse(node)}"


def single_caller_helpers(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Private functions and methods that one place of the file names."""
    nodes = list(ast.walk(tree))
    uses = Counter(name for node in nodes for name in named(node))
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    helpers = [n for n in functions if n.name.startswith("_") and not n.name.startswith("__")]
    return [helper for helper in helpers if uses[helper.name] == 1]


def is_positional(node: ast.AST) -> bool:
    """Calls with six or more positional arguments."""
    return isinstance(node, ast.Call) and len(node.args) >= 6


def is_loose(node: ast.AST) -> bool:
    """``dict[str, Any]``."""
    return isinstance(node, ast.Subscript) and ast.unparse(node) == "dict[str, Any]"


def named(node: ast.AST) -> Iterator[str]:
    """Names that a node uses."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr


def bound(nodes: list[ast.AST]) -> Iterator[str]:
    """Names that are given to values and arguments."""
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


def own_imports(tree: ast.Module) -> int:
    """Modules of our own that a file imports, wherever in it."""
    names = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
    return len({name for name in names if name.split(".")[0] in PACKAGES})


if __name__ == "__main__":
    main()
