import ast
import pickle
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import stx
import stx.plugins
import stx_core
from stx.pipelines.jobs import JOBS
from stx_core import errors

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "ray")
STARTS_LIGHT = (
    "stx",
    "stx.plugins",
    "stx_core",
    "stx_core.models",
    "stx_core.search",
    "stx_core.fusion",
    "stx_core.store",
    "stx_core.evaluation.measures",
    "stx.pipelines.spec.encode",
    "stx.pipelines.retrieve",  # as its readers and writers do
)
ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, errors.StxError)
]


def python_files(package):
    return sorted((ROOT / package).rglob("*.py"))


def imported_modules(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_layers_import_only_what_lies_below_them():
    lint_imports = Path(sys.executable).with_name("lint-imports")

    result = subprocess.run(
        [lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", STARTS_LIGHT)
def test_light_parts_start_without_torch_and_ray(name):
    script = f"import sys, {name}; print([heavy for heavy in {HEAVY} if heavy in sys.modules])"

    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_errors_survive_pickle_with_their_message(error):
    # Ray carries exceptions between processes by pickle.
    copy = pickle.loads(pickle.dumps(error("what, where, what to do")))  # noqa: S301  (our own)

    assert type(copy) is error
    assert str(copy) == "what, where, what to do"


@pytest.mark.parametrize(
    "package", ["stx", "stx.plugins", "stx_core", "stx_core.models", "stx_core.util"]
)
def test_every_public_name_resolves(package):
    module = import_module(package)

    missing = [name for name in module.__all__ if getattr(module, name, None) is None]

    assert missing == []
    assert sorted(set(module.__all__)) == sorted(module.__all__)


@pytest.mark.parametrize("package", [stx_core, stx_core.models], ids=lambda module: module.__name__)
def test_an_unknown_name_is_an_attribute_error_and_known_ones_are_listed(package):
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="has no attribute 'SentenceTransfomer'"):
        _ = package.SentenceTransfomer


@pytest.mark.parametrize(
    "package", [stx, stx.plugins, stx_core], ids=lambda module: module.__name__
)
def test_type_checkers_see_each_lazy_name_where_it_is_imported_from(package):
    seen = {
        alias.asname: node.module
        for node in ast.walk(ast.parse(Path(package.__file__).read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }

    assert seen == package._HOME


def test_every_error_is_public():
    assert {error.__name__ for error in ERRORS} <= set(stx_core.__all__)


def test_no_file_of_the_core_imports_ray():
    # import-linter looks at the graph; this looks at the text, planted lazy imports included.
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in python_files("stx_core")
        for name in imported_modules(path)
        if name.split(".")[0] == "ray"
    ]

    assert found == []


def test_util_holds_names_and_no_logic():
    tree = ast.parse((ROOT / "stx_core" / "util.py").read_text())

    too_long = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > 15
    ]

    assert too_long == []


def test_nothing_reads_bytes_through_a_scanner_that_outlives_the_interpreter():
    # `pq.read_table`, and scans of a dataset, have threads that may still hold what they read when
    # the interpreter ends; freeing an object of Python then aborts the process. Buffers of Python's
    # bytes are read in the calling thread, or copied (`store.buffers.owned`).
    allowed = {
        "stx_core/store/schema.py": "pa.BufferReader(data)",  # from_parquet: no threads
        "stx_core/store/snapshot.py": "pa.BufferReader(base64",  # a schema: no threads
        "stx_core/store/corpus/parquet_file.py": "pq.read_metadata(",  # a footer: no threads
        "pipelines/retrieval/query_spans.py": "pa.BufferReader(read_bytes",  # uncompressed IPC
    }
    found = []
    for package in ("stx_core", "pipelines", "jobs", "stx"):
        for path in python_files(package):
            name = str(path.relative_to(ROOT))
            for line in path.read_text().splitlines():
                scans = "read_table(" in line and "pq." in line or "dataset.to_" in line
                buffers = "BufferReader(" in line and "owned(" not in line
                if (scans or buffers) and allowed.get(name, "none such") not in line:
                    found.append(f"{name}: {line.strip()}")

    assert found == []


def jobs_named(tree):
    """Jobs that a file names in code: as a text, or by importing what they are made of."""
    makers = {name: name for name in JOBS}
    for name, job in JOBS.items():
        for place in (job.spec, job.run):
            makers |= dict.fromkeys([place, *place.split(":")], name)
        makers |= {f"{package}.{name}": name for package in ("stx.jobs", "stx.pipelines")}
    # Specs of several jobs may share a module.
    for job in JOBS.values():
        makers.pop(job.spec.partition(":")[0], None)
    names = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            names |= {alias.name for alias in node.names} - JOBS.keys()
    return {makers[name] for name in names if name in makers}


def lists_of_jobs(tree):
    """Texts that name several jobs; docstrings of commands are their help, a file's own is not."""
    words = re.compile(rf"\b({'|'.join(JOBS)})\b")
    texts = [str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    about = ast.get_docstring(tree, clean=False)
    return [text for text in texts if text != about and len(set(words.findall(text))) > 2]


def test_no_file_but_the_table_lists_jobs():
    several = {}
    for path in [*python_files("jobs"), *python_files("pipelines")]:
        tree = ast.parse(path.read_text())
        if len(jobs_named(tree)) > 1 or lists_of_jobs(tree):
            several[str(path.relative_to(ROOT))] = jobs_named(tree), lists_of_jobs(tree)

    assert several.keys() == {"pipelines/jobs.py"}


def test_each_behaviour_of_the_compatibility_list_names_tests_that_exist():
    page = (ROOT / "docs/compatibility.md").read_text()
    rows = re.findall(r"^\| (\d+) \| .+ \| (.+) \|$", page, flags=re.MULTILINE)

    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    for number, tests in rows:
        files = re.findall(r"`(tests/[\w/]+\.py)`", tests)
        assert files, number
        assert not [file for file in files if not (ROOT / file).is_file()], number


def test_benchmarks_import_names_that_exist():
    imports = [
        (path.name, node.module, alias.name)
        for path in python_files("benchmarks")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and re.match(r"stx(_core)?\b", node.module or "")
        for alias in node.names
    ]

    assert len(imports) > 20
    for file, module, name in imports:
        package = import_module(module)
        assert hasattr(package, name) or import_module(f"{module}.{name}"), (file, module, name)
