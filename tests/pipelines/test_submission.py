"""What is sent to Ray's job API: ids, commands, files, metadata."""

import json
import shlex
from zipfile import ZipFile

import pytest
from ray._private.runtime_env.packaging import create_package

from stx.pipelines.submit.submission import describe
from stx_core.errors import SpecError

ENCODE = {
    "inputs": {"path": "s3://lake/docs/"},
    "models": {"dense": {"model": "m"}},
    "output": {"path": "s3://lake/out"},
}
RETRIEVE = {"queries": {"path": "q"}, "corpus": {"path": "c"}, "output": {"path": "r"}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of specs and other files; the working directory."""
    (tmp_path / "encode.yaml").write_text(json.dumps(ENCODE))
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps/retrieve.yaml").write_text(json.dumps(RETRIEVE))
    (tmp_path / "steps/other.yaml").write_text("{}")
    flow = {"steps": [{"encode": "encode.yaml"}, {"retrieve": "steps/retrieve.yaml"}]}
    (tmp_path / "flow.yaml").write_text(json.dumps(flow))
    (tmp_path / ".gitignore").write_text("*.yaml\n")
    (tmp_path / "large.bin").write_bytes(b"0" * 1000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shipped(submission, folder):
    """Names in the package that Ray itself makes of the folder."""
    target = folder.parent / f"{folder.name}.zip"
    excludes = list(submission.excludes)
    create_package(submission.folder, target, include_gitignore=False, excludes=excludes)
    return sorted(name for name in ZipFile(target).namelist() if not name.endswith("/"))


def test_the_job_id_depends_on_spec_values_not_on_formatting(folder):
    first = describe("encode.yaml")
    (folder / "encode.yaml").write_text(json.dumps(ENCODE, indent=2) + "\n# a comment\n")

    assert describe("encode.yaml").name == first.name
    assert describe("encode.yaml", overrides=["inputs.id_column=key"]).name != first.name
    assert describe("encode.yaml", dry_run=True).name != first.name


def test_a_flow_has_another_id_when_a_spec_that_it_names_changes(folder):
    before = describe("flow.yaml").name
    (folder / "steps/retrieve.yaml").write_text(json.dumps(RETRIEVE | {"k": 7}))

    assert describe("flow.yaml").name != before


def test_jobs_of_a_spec_are_numbered_past_those_that_the_cluster_has(folder):
    submission = describe("encode.yaml")
    name = submission.name

    assert submission.numbered([]) == f"{name}-1"
    assert submission.numbered([f"{name}-2", f"{name}-10", "raysubmit_x-99", None]) == f"{name}-11"


@pytest.mark.parametrize(
    ("spec", "files"),
    [
        ("encode.yaml", ["encode.yaml"]),
        ("flow.yaml", ["encode.yaml", "flow.yaml", "steps/retrieve.yaml"]),
        ("steps/retrieve.yaml", ["steps/retrieve.yaml"]),
    ],
)
def test_only_specs_are_shipped_also_where_git_ignores_them(folder, spec, files):
    assert shipped(describe(spec), folder) == files


def test_a_spec_from_elsewhere_is_shipped_from_its_own_folder(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("elsewhere")
    (place / "e.yaml").write_text(json.dumps(ENCODE))

    submission = describe(str(place / "e.yaml"))

    assert (submission.folder, submission.command[2]) == (str(place), "e.yaml")
    assert shipped(submission, place) == ["e.yaml"]


def test_a_working_dir_is_shipped_whole(folder):
    submission = describe("steps/retrieve.yaml", folder=".")

    assert submission.excludes == ()
    assert submission.entrypoint == "stx retrieve steps/retrieve.yaml"


def test_the_ray_job_submit_command_is_equivalent(folder):
    submission = describe(
        "encode.yaml", overrides=["inputs.filter=[[lang, in, [en, de]]]"], user_metadata=["a=b c"]
    )

    words = shlex.split(submission.ray_command("http://head:8265", "id-1"))

    end = words.index("--")
    options = dict(zip(words[3:end:2], words[4:end:2], strict=True))
    assert tuple(words[end + 1 :]) == submission.command
    assert options["--address"] == "http://head:8265"
    assert options["--submission-id"] == "id-1"
    assert json.loads(options["--metadata-json"]) == submission.metadata
    assert submission.metadata["a"] == "b c"
    assert json.loads(options["--runtime-env-json"]) == submission.runtime_env


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"path": "nowhere.yaml"}, "nowhere.yaml: No such file"),
        ({"path": "steps/other.yaml"}, "no key says which job it is of; name it by --job"),
        ({"job": "rerank"}, "encode.yaml: candidates: missing"),
        ({"job": "show"}, "--job show: name one of run, encode"),
        ({"folder": "steps"}, "encode.yaml is not in --working-dir steps"),
        ({"folder": "large.bin"}, "--working-dir large.bin: not a folder"),
        ({"user_metadata": ["team"]}, "--metadata team: write it as key=value"),
        ({"user_metadata": ["api_token=x"]}, "no secrets there"),
        ({"overrides": ["modls.x=1"]}, "unknown key; did you mean 'models'"),
    ],
)
def test_invalid_submissions_are_refused_before_the_upload(folder, arguments, says):
    with pytest.raises(SpecError, match=says):
        describe(**{"path": "encode.yaml"} | arguments)


def test_relative_and_home_paths_are_pointed_out(folder):
    spec = ENCODE | {"inputs": {"path": ["docs", "/lake/x", "~/y"]}, "output": {"path": "out"}}
    (folder / "local.yaml").write_text(json.dumps(spec))
    (folder / "docs").mkdir()

    alone = describe("local.yaml", overrides=["models.dense.model=./m"]).hints
    shipped = describe("local.yaml", folder=str(folder)).hints

    assert [hint.split(" is ")[0] for hint in alone] == [
        "inputs.path: docs",
        "inputs.path: ~/y",
        "output.path: out",
        "models.dense.model: ./m",
    ]
    assert "removes; name a URL, or a full path" in alone[0]
    assert "the home folder of whom Ray runs as" in alone[1]
    assert [hint.split(" is ")[0] for hint in shipped] == ["inputs.path: ~/y", "output.path: out"]
    assert describe("encode.yaml").hints == ()


def test_alert_overrides_are_refused_on_the_command_line(folder):
    with pytest.raises(SpecError, match="alerts.webhook: Ray keeps a job's command in plain text"):
        describe("encode.yaml", overrides=["alerts.webhook=https://hooks/T0/secret"])

    assert describe("encode.yaml", allow_alerts=True).command[-1] == "--allow-alerts"
