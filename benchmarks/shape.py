"""The shape of the code in numbers: `python benchmarks/shape.py`. Nothing is run but its parser.

Lines without blank ones and comments count. A helper is a private function; its callers are places
that name it, in any file of the packages.
"""

import ast
import io
import tokenize
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
_SKIPPED = (tokenize.NL, tokenize.COMMENT, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)


def main() -> None:
    """Print all figures, by package where that says something."""
    for job in JOBS:
        lines = (ROOT / f"pipelines/{job}.py").read_text().splitlines()
        print(f"lines of pipelines/{job}.py: {len(lines)}")
    for package in PACKAGES:
        print(package)
        for name, value in figures(package).items():
            print(f"  {name}: {value}")


def figures(package: str) -> dict[str, str]:
    """What is counted, in words, and the number."""
    trees = {path: ast.parse(path.read_text()) for path in sorted((ROOT / package).rglob("*.py"))}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    n_lines = sum(code_lines(path) for path in trees)
    functions = [n for n in nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    helpers = [n.name for n in functions if n.name.startswith("_") and not n.name.startswith("__")]
    uses = Counter(name for node in nodes for name in named(node))
    single = [name for name in helpers if uses[name] == 1]
    loose = sum(ast.unparse(n) == "dict[str, Any]" for n in nodes if isinstance(n, ast.Subscript))
    calls = [n for n in nodes if isinstance(n, ast.Call)]
    positional = sum(len(call.args) >= 6 for call in calls)
    own = {path: own_imports(tree) for path, tree in trees.items()}
    most = max(own, key=lambda path: own[path])
    names = list(bound(nodes))
    vague = sum(name in VAGUE for name in names)
    return {
        "lines of code": f"{n_lines:,}",
        "functions per 1,000 lines": f"{1000 * len(functions) / n_lines:.1f}",
        "dict[str, Any] per 1,000 lines": f"{1000 * loose / n_lines:.1f}",
        "private functions with one caller": f"{len(single) / max(1, len(functions)):.1%}",
        "calls with six or more positional arguments": f"{positional}",
        "most modules of our own imported by a file": f"{own[most]} ({most.relative_to(ROOT)})",
        "vague names among those that are bound": f"{vague / max(1, len(names)):.1%}",
    }


def code_lines(path: Path) -> int:
    """Lines with something that is no comment; docstrings count."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    return len(
        {
            line
            for token in tokens
            if token.type not in _SKIPPED
            for line in range(token.start[0], token.end[0] + 1)
        }
    )


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
