"""What the documentation says can be done as it stands there."""

import re
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from stx.pipelines.encode import run_encode
from stx.pipelines.flow import FlowSpec, read_steps
from stx.pipelines.jobs import JOBS
from stx.pipelines.spec.encode import EncodeSpec
from stx.pipelines.spec.file import parse_spec
from stx.pipelines.spec_reference import json_schema, reference, spec_model
from stx_core.errors import SpecError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LAKE = "s3://lake/"
KINDS = (*JOBS, "flow")


def blocks():
    for page in PAGES:
        found = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), flags=re.M | re.S)
        for number, text in enumerate(found, 1):
            if "patches" in yaml.safe_load(text):
                continue  # kustomize's, see tests/infra
            yield pytest.param(text, id=f"{page.name}-{number}")


def kind_of(values):
    """The kind of a whole spec; None for a part of one."""
    for kind in KINDS:
        fields = spec_model(kind).model_fields
        if {name for name, field in fields.items() if field.is_required()} <= values.keys():
            return kind
    return None


def test_there_are_examples_of_each_kind():
    found = [kind_of(yaml.safe_load(block.values[0])) for block in blocks()]

    assert {"encode", "flow", "retrieve", "rerank"} <= set(found)
    assert found.count("encode") >= 5


@pytest.mark.parametrize("text", list(blocks()))
def test_each_example_is_valid(text):
    values = yaml.safe_load(text)
    kind = kind_of(values)
    if kind is None:
        (key,) = values
        assert key in {key for one in KINDS for key in spec_model(one).model_fields}
        return
    spec = parse_spec(values, source="docs", kind=spec_model(kind))
    if isinstance(spec, FlowSpec):
        written_out = tuple(step for step in spec.steps if isinstance(*step.values(), dict))
        assert read_steps(spec.model_copy(update={"steps": written_out}))


def local(value, folder):
    """The same example with a folder instead of the store."""
    if isinstance(value, dict):
        return {key: local(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [local(item, folder) for item in value]
    return value.replace(LAKE, f"{folder}/") if isinstance(value, str) else value


def write_corpus(inputs, conditions):
    """A file with every column that the example names, in a partition for each that it asks for."""
    folder = Path(inputs.path)
    for condition in conditions:
        folder /= f"{condition.column}={condition.value}"
    folder.mkdir(parents=True)
    texts = [f"text {number}" for number in range(20)]
    columns = {inputs.id_column: [f"{number}" for number in range(20)]}
    columns |= dict.fromkeys((*inputs.text_columns, *inputs.columns), texts)
    for condition in inputs.filter:
        some = condition.value[0] if isinstance(condition.value, list) else condition.value
        columns[condition.column] = [some] * 20
    pq.write_table(pa.table(columns), folder / "a.parquet")


class Plans:
    """Takes the plan, and nothing else happens."""

    def __init__(self):
        self.seen = []

    def plan(self, plan):
        self.seen.append(plan)


def encode_specs():
    for block in blocks():
        values = yaml.safe_load(block.values[0])
        if kind_of(values) == "encode":
            yield pytest.param(values, id=block.id)
        steps = values.get("steps", []) if isinstance(values, dict) else []
        for number, step in zip(count(1), steps, strict=False):
            if isinstance(step.get("encode"), dict) and LAKE in str(step):
                yield pytest.param(step["encode"], id=f"{block.id}-step{number}")


@pytest.mark.parametrize("values", list(encode_specs()))
def test_each_corpus_example_can_be_planned(values, tmp_path, tiny_bert, splade_model):
    values = local(values, tmp_path)
    if not str(values["inputs"]["path"]).startswith(str(tmp_path)):
        pytest.fail(f"examples read from {LAKE}, so that a test can plan them")
    for model in values["models"].values():
        model["model"] = str(splade_model if model.get("type") == "sparse" else tiny_bert)
        model.pop("revision", None)
    values.setdefault("resources", {})["runner"] = "local"
    values["resources"]["supervised"] = False
    spec = EncodeSpec.model_validate(values)
    write_corpus(spec.inputs, spec.backfill.partitions if spec.backfill else ())

    plans = Plans()
    run_encode(spec, plans, dry_run=True)

    assert plans.seen[0].n_due_rows == 20


def test_the_page_of_all_keys_is_up_to_date():
    told = (ROOT / "docs" / "spec.md").read_text().strip()

    assert told == reference().strip(), "run: stx spec reference > docs/spec.md"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_a_schema_that_refuses_a_misspelt_key(kind):
    from jsonschema import Draft202012Validator

    schema = json_schema(kind)
    Draft202012Validator.check_schema(schema)

    errors = Draft202012Validator(schema).iter_errors({"inptus": 1})
    assert any("inptus" in error.message for error in errors)


def test_each_key_says_what_it_means():
    lines = [line for line in reference().splitlines() if line.startswith("| `")]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]

    assert len(rows) > 150
    assert {len(row) for row in rows} == {4}
    assert [row for row in rows if not all(cell.strip() for cell in row)] == []


def test_an_unknown_kind_is_refused():
    with pytest.raises(SpecError, match="must be one of encode"):
        json_schema("encoed")


def test_links_between_pages_lead_somewhere():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        named = r"(?:`|]\()(docs/[a-z_]+\.md|tests/[\w/]+\.py|benchmarks/\w+\.py)[`)]"
        for name in re.findall(named, page.read_text()):
            assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_the_site_is_built_without_a_broken_link(tmp_path):
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for package in ("stx", "stx_core", "pipelines"):
        (tmp_path / package).symlink_to(ROOT / package)
    (recipe,) = re.findall(
        r"^docs:.*\n((?:\t\$\(BIN\)/.*\n)+)", (ROOT / "Makefile").read_text(), re.M
    )
    script = recipe.replace("$(BIN)", str(Path(sys.executable).parent))

    done = subprocess.run(["sh", "-ec", script], cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site"
    pages = {str(path.relative_to(tmp_path / "docs")) for path in (tmp_path / "docs").rglob("*.md")}
    assert {f"{page[:-3]}.html" for page in pages} <= {
        str(path.relative_to(site)) for path in site.rglob("*.html")
    }
    assert "similarity_fn_name" in (site / "api/models.html").read_text()
