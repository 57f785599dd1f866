"""The table of jobs: all that is to be known of a job stands there, and all who ask read it."""

import ast
import inspect
import json
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import resolve_name

import pytest

import stx.pipelines
import stx.pipelines.spec
from stx.pipelines import import_ranking
from stx.pipelines.engine.job import Job
from stx.pipelines.flow import FlowSpec, read_steps
from stx.pipelines.jobs import JOBS, JobEntry, with_commands
from stx.pipelines.spec.file import parse_spec
from stx.pipelines.spec.parts import Part
from stx.pipelines.spec_reference import json_schema, reference
from stx.pipelines.submit.submission import describe
from stx_core.errors import SpecError

ROOT = Path(__file__).parents[2]

# Specs that are no job's: of several jobs, and of `stx import`, which no file holds.
OTHERS = {"FlowSpec", "ImportSpec"}


def commands(stx):
    """Names of the commands, in the order of `stx --help`."""
    _, printed, _ = stx("--help")
    return re.findall(r"^  (\w+)  ", printed.partition("Commands:")[2], flags=re.M)


def check_entry(name):
    """What a job is made of is there, and as `JobEntry` says."""
    job = JOBS[name]
    parameters = list(inspect.signature(job.run_function()).parameters)
    assert issubclass(job.spec_class(), Part)
    assert parameters[:2] == ["spec", "view"]
    assert ("dry_run" in parameters) == (job.key is not None)
    assert [job.help, job.command].count(None) == (1 if job.key else 2)
    assert job.command is None or callable(resolve_name(job.command))


def check_keys():
    """A key tells a spec from those of the jobs below."""
    classes = [(job.key, job.spec_class()) for job in with_commands().values()]
    for place, (key, spec_class) in enumerate(classes):
        assert key in spec_class.model_fields
        assert [below for _, below in classes[place + 1 :] if key in below.model_fields] == []


def test_every_spec_of_a_job_is_in_the_table():
    classes = {
        node.name
        for path in (ROOT / "pipelines").rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Spec")
        if any(isinstance(base, ast.Name) and base.id == "Part" for base in node.bases)
    }

    assert {job.spec.rpartition(":")[2] for job in JOBS.values()} == classes - OTHERS


def test_jobs_of_the_engine_have_the_names_of_the_table():
    for job in with_commands().values():
        job.run_function()

    names = {cls.name for cls in Job.__subclasses__() if cls.__module__ != import_ranking.__name__}
    assert names == set(with_commands())
    assert import_ranking._Import.name == "import"


@pytest.mark.parametrize("name", JOBS)
def test_an_entry_names_existing_modules(name):
    check_entry(name)


def test_a_key_tells_a_spec_from_those_of_the_jobs_below():
    check_keys()


def test_commands_of_the_table_come_first_and_in_its_order(stx):
    names = list(with_commands())

    assert commands(stx)[: len(names) + 1] == [*names, "run"]


@pytest.mark.parametrize("name", JOBS)
def test_a_job_without_an_entry_is_unknown_everywhere(name, stx, tmp_path, monkeypatch):
    (tmp_path / "spec.yaml").write_text("{}")
    monkeypatch.delitem(JOBS.table, name)

    assert commands(stx)[: len(with_commands()) + 1] == [*with_commands(), "run"]
    with pytest.raises(SpecError, match="step 1: name one job"):
        read_steps(parse_spec({"steps": [{name: {}}]}, kind=FlowSpec))
    with pytest.raises(SpecError, match=f"--job {name}: name one of"):
        describe(str(tmp_path / "spec.yaml"), name)
    with pytest.raises(SpecError, match="must be one of"):
        json_schema(name)
    assert f"\n## {name}\n" not in reference()


def example():
    """The files of the worked example of CONTRIBUTING.md, by path."""
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## A new job")[2]
    blocks = re.findall(r"^```python\n# (\S+)\n(.*?)^```", section, flags=re.M | re.S)
    return dict(blocks)


@pytest.fixture
def new_job(tmp_path, monkeypatch):
    """Name of the job of the example, in the table; and its test, as a module."""
    files = example()
    (entry,) = eval(f"{{{files.pop('pipelines/jobs.py')}}}", {"JobEntry": JobEntry}).items()
    for path, text in files.items():
        file = tmp_path / "example" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for package in (stx.pipelines, stx.pipelines.spec):
        folder = tmp_path / "example" / package.__name__.removeprefix("stx.").replace(".", "/")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    monkeypatch.setitem(JOBS.table, *entry)
    (test,) = (path for path in files if path.startswith("tests/"))
    spec = spec_from_file_location("test_example", tmp_path / "example" / test)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    yield entry[0], module
    for path in files:
        sys.modules.pop(path.removesuffix(".py").replace("/", "."), None)


def test_a_new_job_is_a_spec_a_file_an_entry_and_a_test():
    assert [re.sub(r"\w+\.py$", "…", path) for path in example()] == [
        "pipelines/spec/…",
        "pipelines/…",
        "pipelines/…",
        "tests/pipelines/…",
    ]


def test_the_new_job_of_the_example_passes_its_own_test(new_job, request):
    _, module = new_job
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]

    for test in tests:
        test(**{name: request.getfixturevalue(name) for name in inspect.signature(test).parameters})

    assert tests


def test_the_example_job_is_known_everywhere(new_job, stx, tmp_path):
    name, _ = new_job
    check_entry(name)
    check_keys()
    spec = {"dataset": {"path": "s3://lake/vectors"}, "json_file": "s3://lake/rows.json"}
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))

    (step,) = read_steps(parse_spec({"steps": [{name: spec}]}, kind=FlowSpec))
    _, helped, _ = stx(name, "--help")
    submission = describe(str(tmp_path / "spec.yaml"))

    assert commands(stx)[len(with_commands()) - 1] == name
    assert JOBS[name].help in " ".join(helped.split())
    assert (step.job, step.run) == (name, JOBS[name].run_function())
    assert submission.entrypoint == f"stx {name} spec.yaml"
    assert json_schema(name)["properties"].keys() == JOBS[name].spec_class().model_fields.keys()
    assert f"\n## {name}\n\n`stx {name} SPEC`. The `{name}` job" in reference()
