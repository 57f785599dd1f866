"""A plug-in, the one of docs/extending.md, adds to stx by entry points only."""

import json
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from stx.pipelines import doctor
from stx.pipelines.encode import run_encode
from stx.pipelines.exports.forms import FORMS
from stx.pipelines.flow import FlowSpec, read_steps
from stx.pipelines.jobs import JOBS
from stx.pipelines.retrieve import run_retrieve
from stx.pipelines.spec.file import parse_spec
from stx.pipelines.spec_reference import json_schema, reference
from stx.pipelines.submit.submission import describe
from stx_core.errors import ModelError, SpecError
from stx_core.models.contents import fingerprint_files
from stx_core.models.module_types import MODULE_TYPES
from stx_core.models.modules import saved_type
from stx_core.models.sentence_transformer import SentenceTransformer
from stx_core.search.first_passes import FIRST_PASSES
from stx_core.store.corpus.formats import READERS
from stx_core.store.snapshot import open_snapshot
from tests.pipelines.retrieval import lake, spec_for

ROOT = Path(__file__).parents[2]
REGISTRIES = (JOBS, FORMS, READERS, FIRST_PASSES, MODULE_TYPES)


def install(site, project):
    """Writes what an installer writes of a project's table: metadata and entry points."""
    name, version = project["name"].replace("-", "_"), project["version"]
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {version}\n"
    )
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{point} = {place}" for point, place in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))


def forget(package):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that is searched for packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    forget("acme_stx")


@pytest.fixture
def plugin(site):
    """Installs the package of the page; gives its folder."""
    page = (ROOT / "docs/extending.md").read_text()
    files = dict(re.findall(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```", page, flags=re.M | re.S))
    for path, text in files.items():
        (site / path).parent.mkdir(exist_ok=True)
        (site / path).write_text(text)
    install(site, tomllib.loads(files["pyproject.toml"])["project"])
    return site / "acme_stx"


def test_the_plugin_adds_one_name_to_each_registry_and_nothing_is_imported(plugin):
    added = {registry.group: sorted(registry.plugins) for registry in REGISTRIES}

    assert added == {
        "stx.jobs": ["tally"],
        "stx.exports": ["ids"],
        "stx.readers": ["txt"],
        "stx.retrievers": ["leading"],
        "stx.module_types": ["acme_stx.modules.Shift"],
    }
    assert all(set(registry) == {*registry.table, *registry.plugins} for registry in REGISTRIES)
    assert "acme_stx" not in sys.modules


def test_its_job_is_known_everywhere(plugin, stx, tmp_path):
    values = {"tallied": {"path": "s3://lake/vectors"}, "column": "lang", "json_file": "t.json"}
    (tmp_path / "tally.yaml").write_text(json.dumps(values))

    (step,) = read_steps(parse_spec({"steps": [{"tally": values}]}, kind=FlowSpec))
    code, listed, _ = stx("--help")
    _, helped, _ = stx("tally", "--help")

    assert code == 0
    assert "tally     Count the rows of a dataset by the values of a column." in listed
    assert "Of acme-stx 1.0." in helped
    assert "--set KEY=VALUE" in helped
    assert (step.job, step.run) == ("tally", JOBS["tally"].run_function())
    assert describe(str(tmp_path / "tally.yaml")).entrypoint == "stx tally tally.yaml"
    assert json_schema("tally")["properties"].keys() == {"tallied", "column", "json_file"}
    assert "\n## tally\n\n`stx tally SPEC`. The `tally` job" in reference()
    assert "Of acme-stx 1.0." in reference()


def test_its_job_and_its_export_form_run(plugin, corpus, spec_of, stx, tmp_path):
    run_encode(spec_of(corpus, inputs={"columns": ["lang"]}))
    out = str(tmp_path / "out")
    values = {"tallied": {"path": out}, "column": "lang", "json_file": str(tmp_path / "tally.json")}
    (tmp_path / "tally.yaml").write_text(json.dumps(values))
    step = values | {"json_file": str(tmp_path / "in_flow.json")}
    (tmp_path / "flow.yaml").write_text(json.dumps({"steps": [{"tally": step}]}))

    codes = [
        stx("tally", tmp_path / "tally.yaml")[0],
        stx("run", tmp_path / "flow.yaml")[0],
        stx(
            "export", out, tmp_path / "ids.txt", "--format", "ids", "--option", "separator=,"
        )[0],
    ]  # fmt: skip

    assert codes == [0, 0, 0]
    for name in ("tally.json", "in_flow.json"):
        assert json.loads((tmp_path / name).read_text()) == {"en": 166, "de": 84}
    ids = (tmp_path / "ids.txt").read_text().rstrip(",").split(",")
    assert ids == open_snapshot(out).to_table(columns=["id"])["id"].to_pylist()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "ids", "--name", "x"], "--name goes with pinecone, pgvector, vespa, not ids"),
        (["--format", "ids", "--option", "sep=x"], "no form has it; those of ids: separator"),
        (["--format", "idz"], "ciff, ids (a plug-in's name"),
        (["--format", "ids", "--option", "x"], "write it as NAME=VALUE"),
    ],
)
def test_options_of_other_forms_are_refused(plugin, stx, options, said):
    code, _, error = stx("export", "out", "ids.txt", *options)

    assert code == 2
    assert said in error
    assert error.count("\n") == 1


def test_files_of_its_format_are_read_by_their_ending(plugin, spec_of, tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/a.txt").write_text("plants eat\n\nlight\n" * 50)

    report = run_encode(spec_of(tmp_path / "corpus", inputs={"id_column": None}))

    assert open_snapshot(str(tmp_path / "out")).count_rows() == 100
    assert report.quarantined_share == pytest.approx(1 / 3)


def test_its_first_pass_proposes_documents_and_its_code_decides_the_ranking(
    plugin, static_model, tmp_path
):
    corpus, queries = lake(tmp_path, static_model)
    changes = {"retrievers": {"dense": {"first_pass": "leading", "oversample": 20}}}
    first = run_retrieve(spec_for(tmp_path, corpus, queries, **changes))
    again = run_retrieve(spec_for(tmp_path, corpus, queries, **changes))
    forget("acme_stx")
    (plugin / "first_pass.py").write_text(
        (plugin / "first_pass.py").read_text().replace("first four", "four first")
    )
    changed = run_retrieve(spec_for(tmp_path, corpus, queries, **changes))

    assert [first.version, again.version, changed.version] == [1, 1, 2]
    assert any("recall" in line for line in first.lines)


def test_its_module_type_loads_saves_and_is_in_the_fingerprint(
    plugin, static_model, tmp_path, save_static_model
):
    weights = load_file(static_model / "0_StaticEmbedding/model.safetensors")["embedding.weight"]
    folder = save_static_model(tmp_path / "model", ["plants"], weights[:2])
    plain = SentenceTransformer(str(folder)).encode(["plants"])
    (folder / "1_Shift").mkdir()
    (folder / "1_Shift/config.json").write_text('{"by": 2.0}')
    entries = json.loads((folder / "modules.json").read_text())
    entries.append({"idx": 1, "name": "1", "path": "1_Shift", "type": "acme_stx.modules.Shift"})
    (folder / "modules.json").write_text(json.dumps(entries))

    model = SentenceTransformer(str(folder))
    model.save_pretrained(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"))
    before = fingerprint_files(folder)
    forget("acme_stx")
    (plugin / "modules.py").write_text((plugin / "modules.py").read_text() + "\n# changed\n")

    np.testing.assert_allclose(model.encode(["plants"]), plain + 2)
    np.testing.assert_allclose(again.encode(["plants"]), plain + 2)
    assert saved_type(again[1]) == "acme_stx.modules.Shift"
    assert fingerprint_files(folder) != before


def test_a_folder_cannot_add_a_module_type(site, static_model, tmp_path):
    (site / "acme_stx").mkdir()
    (site / "acme_stx/modules.py").write_text("raise SystemExit('imported')")
    folder = tmp_path / "model"
    folder.mkdir()
    entry = {"idx": 0, "name": "0", "path": "", "type": "acme_stx.modules.Shift"}
    (folder / "modules.json").write_text(json.dumps([entry]))

    with pytest.raises(ModelError, match="module type 'acme_stx.modules.Shift' is unknown"):
        SentenceTransformer(str(folder))


def broken(name, **points):
    return {"name": name, "version": "2.0", "entry-points": points}


def test_a_plugin_that_does_not_import_is_a_note_in_help_and_an_error_when_used(site, stx):
    install(site, broken("sick-stx", **{"stx.jobs": {"sick": "not_there:JOB"}}))

    code, listed, _ = stx("--help")
    used, _, error = stx("sick", "spec.yaml", "--dry-run")
    (seen,) = [check for check in doctor.checks() if check.name == "plug-ins"]

    assert code == 0
    assert "Cannot be used: job 'sick' of sick-stx 2.0: not_there:JOB cannot be" in " ".join(
        listed.split()
    )
    assert used == 2
    assert error.startswith("stx: job 'sick' of sick-stx 2.0: not_there:JOB cannot be imported")
    assert error.count("\n") == 1
    assert (seen.state, "sick-stx 2.0" in seen.text) == ("note", True)
    assert "\n## sick\n" not in reference()


def test_doctor_lists_what_plugins_add(plugin):
    (seen,) = [check for check in doctor.checks() if check.name == "plug-ins"]

    assert seen.state == "ok"
    assert "job tally (acme-stx 1.0), export form ids (acme-stx 1.0)" in seen.text


@pytest.mark.parametrize("name", ["sample", "show"])
def test_a_name_that_stx_has_is_refused_where_it_is_used_and_nowhere_else(site, stx, name):
    install(site, broken("greedy-stx", **{"stx.jobs": {name: "acme_stx.jobs:TALLY"}}))

    used, _, error = stx(name, "x")
    code, listed, _ = stx("--help")

    assert (used, code) == (2, 0)
    assert f"stx: job '{name}' of greedy-stx 2.0: stx itself has" in error
    assert "encode    Encode a corpus" in listed


def test_a_name_of_two_plugins_names_both(site):
    for name in ("one-stx", "two-stx"):
        install(site, broken(name, **{"stx.exports": {"ids": "acme_stx.exports:IDS"}}))

    with pytest.raises(SpecError, match="2.0 and .*2.0: both have this name"):
        FORMS["ids"]


def test_what_a_plugin_gives_is_of_the_kind_of_its_group(plugin, site):
    install(site, broken("odd-stx", **{"stx.readers": {"odd": "acme_stx.jobs:TALLY"}}))

    with pytest.raises(SpecError, match="acme_stx.jobs:TALLY is a JobEntry, not a Reader"):
        READERS["odd"]


def test_each_form_is_on_the_page_of_exports():
    page = (ROOT / "docs/export.md").read_text()

    assert [name for name in FORMS.table if f"`{name}`" not in page] == []


def test_a_reader_that_gives_other_rows_is_told_by_file_and_rows(plugin, spec_of, tmp_path):
    (plugin / "readers.py").write_text(
        (plugin / "readers.py").read_text().replace("[start:stop]", "[start : stop - 1]")
    )
    (tmp_path / "a.txt").write_text("plants\nlight\n")

    with pytest.raises(Exception, match=r"a\.txt rows 0 to 2: its reader gave 1 rows"):
        run_encode(spec_of(tmp_path / "a.txt", inputs={"id_column": None}))


def test_the_table_of_names_that_specs_take_follows_the_registry(plugin):
    formats = json_schema("encode")["$defs"]["Inputs"]["properties"]["format"]["anyOf"][0]["enum"]
    passes = json_schema("retrieve")["$defs"]["Retriever"]["properties"]["first_pass"]["enum"]

    assert formats == ["parquet", "jsonl", "csv", "arrow", "txt"]
    assert passes == ["exact", "int8", "binary", "ivf", "hnsw", "leading"]
