"""Any text as YAML gives values soon, or one line that says where it goes wrong."""

import contextlib
import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stx.pipelines.spec.file import load_spec, parse_spec, read_spec
from stx.pipelines.spec.yaml_text import MAX_BYTES, load_yaml
from stx_core.errors import SpecError
from stx_core.store.files.filesystem import write_new


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 20_000, "line 1, column 51: more than 50 levels"),
        ("[" * 400_000, "line 1, column 51: more than 50 levels"),
        ("{a: " * 20_000, "more than 50 levels"),
        ("- " * 20_000, "more than 50 levels"),
        ("a: &x [1]\nb: [*x, *x]", "line 2, column 5: aliases"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1: key 'a' is there twice, the first is in line 1"),
        ("a: {x: 1, y: 2, x: 3}", "line 1, column 17: key 'x' is there twice"),
        ("yes: 1\ntrue: 2", "line 2, column 1: key 'True' is there twice"),
        ("[", "line 2, column 1: "),
        ("a: 2026-13-45", "line 1, column 4: no timestamp: put quotes around it"),
        ("a: 2026-11-01T25:00:00", "line 1, column 4: no timestamp"),
        ("a: " + "9" * 5000, "line 1, column 4: a number of 5000 characters"),
        ("a: 1" + ":59" * 100_000, "line 1, column 4: a number of 300001 characters"),
        ("a: !!int ''", "line 1, column 4: no int"),
        ("a: !!bool x", "line 1, column 4: no bool"),
        ("a: !!timestamp x", "line 1, column 4: no timestamp"),
        ("a: !!python/object/apply:os.system [x]", "line 1, column 4: could not determine"),
        ("!!map [a]", "line 1, column 1: expected a mapping node"),
        ("a:\n\t- b", "line 2, column 1: a tab in the indentation; use spaces"),
        ("a: 1\nb: \x00", "line 2: a control character"),
        (b"a: 1\nb: \xe9", "line 2: byte 8 is not UTF-8"),
        ("a: 1".encode("utf-16") + b"\x00", "line 1: byte 10 is not UTF-8"),
        ("a: 1\n---\nb: 2", "another document"),
        ("? [a]\n: 1", "unhashable key"),
        ('a: "\\ud800"', "line 1, column 7: "),
    ],
)
def test_what_is_no_yaml_of_a_spec_is_one_line_with_its_place(text, problem):
    with pytest.raises(SpecError) as refused:
        load_yaml(text, "f.yaml")

    assert str(refused.value).startswith("f.yaml: not valid YAML: ")
    assert problem in str(refused.value)
    assert str(refused.value).isprintable()


def test_more_bytes_than_a_spec_has_are_refused_unread():
    with pytest.raises(SpecError, match=r"f: more than 1,000,000 bytes"):
        load_yaml(b" " * (MAX_BYTES + 1), "f")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", None),
        ("\ufeffa: 1", {"a": 1}),
        ("a: ü".encode("utf-16"), {"a": "ü"}),
        ("a: 2026-11-01", {"a": datetime.date(2026, 11, 1)}),
        ("a: '2026-13-45'", {"a": "2026-13-45"}),
        (f"a: {2**64}", {"a": 2**64}),
        ("<<: {a: 1}\na: 2", {"a": 2}),
        ('{"a": [[["lang", "in", ["en"]]]]}', {"a": [[["lang", "in", ["en"]]]]}),
    ],
)
def test_valid_text_is_read(text, values):
    assert load_yaml(text, "f") == values


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text("[]{}:,-?&*!|>'\"%@ \n\ta1~<.", max_size=40)))
def test_arbitrary_bytes_load_or_raise_a_spec_error(data):
    with contextlib.suppress(SpecError):
        load_yaml(data, "f")


SPEC = {"inputs": {"path": "c"}, "models": {"d": {"model": "m"}}, "output": {"path": "o"}}


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("inputs.path=[", "--set inputs.path: not valid YAML: line 2"),
        ("inputs.filter=[[a, ==, 2026-02-30]]", "--set inputs.filter: not valid YAML: line 1"),
        ("inputs.filter=" + "[" * 5000, "--set inputs.filter: not valid YAML: "),
        ("resources.actors=" + "9" * 5000, "--set resources.actors: not valid YAML: line 1"),
        ("a." * 1000 + "b=1", "more than 50 levels"),
        ("inputs.path." + "9" * 5000 + "=1", "--set inputs.path"),
        ("resources.rows_per_unit=1" + "0" * 30, "resources.rows_per_unit: is larger than any"),
        ("resources.actors=[1, 1" + "0" * 30 + "]", "resources.actors: is larger than any"),
        ("resources.stall_timeout_s=.inf", "resources.stall_timeout_s: "),
        ("resources.cost_per_hour=.nan", "resources.cost_per_hour: "),
        ("resources.deadline=" + "9" * 400 + "d", "resources.deadline: is longer than"),
    ],
)
def test_overrides_are_checked_as_the_file_is(override, problem):
    values = {**SPEC, "inputs": {"path": ["c"]}}

    with pytest.raises(SpecError) as refused:
        parse_spec(values, [override])

    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["nowhere.yaml", "nul\x00.yaml", ".", "~nobody-of-this-name/x"])
def test_a_spec_file_that_cannot_be_read_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SpecError, match="name an existing spec file"):
        load_spec(name)


@pytest.mark.parametrize("text", ["", "[a]", "1: a", "null"])
def test_spec_keys_must_be_strings(text, tmp_path):
    (tmp_path / "spec.yaml").write_text(text)

    with pytest.raises(SpecError, match=r"spec\.yaml: (expected a mapping|1: keys are words)"):
        load_spec(str(tmp_path / "spec.yaml"))


def test_specs_stored_in_datasets_are_validated_alike(tmp_path):
    write_new(str(tmp_path / "_stx/runs/r/spec.yaml"), b"a: 1\na: 2")

    with pytest.raises(SpecError, match="is there twice"):
        read_spec(str(tmp_path), "r")
