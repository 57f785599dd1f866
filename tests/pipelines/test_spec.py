import subprocess
import sys

import pytest

from stx.pipelines.spec.encode import EncodeSpec
from stx.pipelines.spec.file import load_spec, parse_spec
from stx_core.errors import SpecError


def values(**changes):
    return {
        "inputs": {"path": "corpus"},
        "models": {"dense": {"model": "all-MiniLM-L6-v2"}},
        "output": {"path": "out"},
    } | changes


def test_a_spec_needs_only_input_model_and_output():
    spec = parse_spec(values())

    assert spec.inputs.paths == ("corpus",)
    assert spec.models["dense"].type == "dense"
    assert spec.resources.runner == "auto"


def test_all_errors_of_a_spec_are_reported_at_once_with_their_keys():
    wrong = values(
        inputs={"path": "corpus", "txt_column": "body"},
        models={"dense": {"model": "m", "max_seq_lenght": 3}},
        output={},
    )

    with pytest.raises(SpecError) as caught:
        parse_spec(wrong, source="encode.yaml")

    lines = str(caught.value).splitlines()
    assert "encode.yaml: inputs.txt_column: unknown key; did you mean 'text_column'?" in lines
    assert (
        "encode.yaml: models.dense.max_seq_lenght: unknown key; did you mean 'max_seq_length'?"
        in lines
    )
    assert "encode.yaml: output.path: missing; every spec needs it" in lines
    assert len(lines) == 3


def test_an_error_never_repeats_the_value_that_was_typed():
    with pytest.raises(SpecError) as caught:
        parse_spec(values(output={"path": "out", "on_bad_rows": "hunter2-secret"}))

    assert "hunter2" not in str(caught.value)


def test_overrides_reach_nested_keys_and_are_read_as_yaml():
    spec = parse_spec(values(), ["resources.actors=3", "models.dense.normalize=true"])

    assert spec.resources.actors == 3
    assert spec.models["dense"].normalize is True


def test_actors_may_be_a_range():
    assert parse_spec(values(), ["resources.actors=[2, 5]"]).resources.actors == (2, 5)


@pytest.mark.parametrize("actors", ["0", "[0, 2]", "[3, 2]", "[1, 2, 3]", "many", "1.5"])
def test_actors_that_are_no_number_or_range_are_one_line(actors):
    with pytest.raises(SpecError, match=r"actors: write a number from 1, or \[least, most\]$"):
        parse_spec(values(), [f"resources.actors={actors}"])


@pytest.mark.parametrize("override", ["resources.actors", "=3", "inputs.path.x=1"])
def test_an_override_that_cannot_be_applied_is_refused(override):
    with pytest.raises(SpecError, match="--set"):
        parse_spec(values(), [override])


def test_filters_are_written_as_short_lists():
    spec = parse_spec(values(inputs={"path": "c", "filter": [["lang", "in", ["en", "de"]]]}))

    (condition,) = spec.inputs.filter
    assert (condition.column, condition.op, condition.value) == ("lang", "in", ["en", "de"])


def test_an_unknown_filter_operator_is_refused():
    with pytest.raises(SpecError, match=r"inputs\.filter\.0\.op"):
        parse_spec(values(inputs={"path": "c", "filter": [["lang", "~", "en"]]}))


def test_a_copied_column_may_not_take_a_name_that_stx_writes():
    with pytest.raises(SpecError, match=r"embedding: stx writes columns of this name"):
        parse_spec(values(inputs={"path": "c", "columns": ["embedding"]}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inputs: [", "not valid YAML"),
        ("- a", "expected a mapping"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("a: &x [1]\nb: *x", "aliases"),
    ],
)
def test_a_file_that_is_no_spec_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "spec.yaml"
    path.write_text(text)

    with pytest.raises(SpecError, match=message) as caught:
        load_spec(str(path))

    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_spec_file_is_named():
    with pytest.raises(SpecError, match=r"nowhere\.yaml: No such file"):
        load_spec("nowhere.yaml")


def test_a_spec_cannot_be_changed_after_it_was_checked():
    spec = parse_spec(values())

    with pytest.raises(ValueError, match="frozen"):
        spec.output.path = "elsewhere"


def test_reading_a_spec_loads_neither_torch_nor_ray():
    code = (
        "import sys, stx.pipelines.spec.encode; "
        "print([name for name in ('torch', 'ray', 'transformers') if name in sys.modules])"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert answer.stdout.strip() == "[]", answer.stderr


def test_every_key_has_a_default_or_is_named_as_needed():
    required = {name for name, part in EncodeSpec.model_fields.items() if part.is_required()}

    assert required == {"inputs", "models", "output"}


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "0123abc", "Z" * 40])
def test_foreign_code_needs_the_commit_that_was_read(revision):
    model = {"model": "org/name", "trust_remote_code": True, "revision": revision}

    with pytest.raises(SpecError, match=r"models\.dense: trust_remote_code needs revision"):
        parse_spec(values(models={"dense": model}))


def test_foreign_code_of_a_commit_or_of_a_local_folder_may_be_asked_for(tmp_path):
    pinned = {"model": "org/name", "trust_remote_code": True, "revision": "0123456789" * 4}
    local = {"model": str(tmp_path), "trust_remote_code": True}

    spec = parse_spec(values(models={"pinned": pinned, "local": local}))

    assert all(model.trust_remote_code for model in spec.models.values())


@pytest.mark.parametrize(
    "text", ["a: !!python/object/apply:os.system ['touch x']", "a: !!python/name:os.system"]
)
def test_yaml_cannot_name_python_objects(tmp_path, text):
    path = tmp_path / "spec.yaml"
    path.write_text(text)

    with pytest.raises(SpecError, match="not valid YAML"):
        load_spec(str(path))
    assert list(tmp_path.iterdir()) == [path]
