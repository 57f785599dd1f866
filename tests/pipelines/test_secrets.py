"""Planted secrets and a canary text: a run may use them, nothing that it leaves may show them."""

import json
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest

from stx.pipelines.spec.file import load_spec, parse_spec
from stx_core.errors import SpecError
from stx_core.store.files.filesystem import list_sizes, read_bytes, write_new
from stx_core.store.files.urls import join
from stx_core.store.schema import to_parquet
from stx_core.store.snapshot import open_snapshot

PLANTED = "pl4nted-s3cret-value"
CANARY = "canary-text-of-a-document"
SECRETS = dict.fromkeys(("AZURE_STORAGE_SAS_TOKEN", "HF_TOKEN"), PLANTED)


@pytest.fixture
def short_folder():
    """For Ray's session, whose socket names must not be longer than 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="stx-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def run(s3_root, static_model, tmp_path, short_folder, stx_process):
    """Runs `stx encode` with S3 input and output; gives all that it printed, logged and wrote."""
    texts = [CANARY, "plants eat light", None, ""]
    table = pa.table({"id": ["a", "b", "c", "d"], "text": pa.array(texts, pa.string())})
    write_new(join(s3_root, "in", "part.parquet"), to_parquet(table))
    lines = [json.dumps({"id": "x", "text": CANARY}), '{"id": "y", "text": "' + CANARY, "{}"]
    write_new(join(s3_root, "lines", "part.jsonl"), "\n".join(lines).encode())
    write_new(join(s3_root, "broken", "part.parquet"), b"PAR1" + CANARY.encode() + b"PAR1")

    def start(*sets, environment=None, options=()):
        values = {
            "inputs": {"path": join(s3_root, "in")},
            "models": {"dense": {"model": str(static_model)}},
            "output": {"path": join(s3_root, "out")},
            "resources": {"runner": "local", "supervised": False},
        }
        (tmp_path / "encode.yaml").write_text(json.dumps(values))
        sets = [part for pair in sets for part in ("--set", pair.format(root=s3_root))]
        known = os.environ | {"RAY_TMPDIR": str(short_folder)} | (environment or {})
        done = stx_process(
            *("encode", tmp_path / "encode.yaml", *sets, *options),
            environment={name: value for name, value in known.items() if value is not None},
        )
        printed = {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()}
        return done.returncode, printed | left()

    def left():
        written = {}
        for folder in ("data", "quarantine", "_stx"):  # below a root, _stx counts as hidden
            for name in list_sizes(join(s3_root, "out", folder)):
                written[f"{folder}/{name}"] = read_bytes(join(s3_root, "out", folder, name))
        logs = {str(path): path.read_bytes() for path in short_folder.rglob("*") if path.is_file()}
        return written | logs

    return start


def places_of(text, found):
    return [name for name, data in found.items() if text.encode() in data]


def vectors(root):
    rows = open_snapshot(root).to_table(columns=["id", "embedding"]).to_pylist()
    return {row["id"]: row["embedding"] for row in rows}


def keys(s3_server):
    return s3_server.environment["AWS_ACCESS_KEY_ID"], s3_server.environment[
        "AWS_SECRET_ACCESS_KEY"
    ]


def assert_nothing_shows(found, s3_server):
    assert any(name.startswith("quarantine/") for name in found)
    assert any(name.endswith("spec.yaml") for name in found)
    for secret in (PLANTED, *keys(s3_server), CANARY):
        assert places_of(secret, found) == []


def test_a_run_leaves_no_secret_and_no_text(run, s3_server):
    code, found = run(environment=SECRETS)

    assert code == 0, found["stderr"]
    assert_nothing_shows(found, s3_server)


def test_ray_goes_on_by_what_the_spec_says_and_leaves_no_secret_and_no_text(
    run, s3_root, s3_server
):
    units = "resources.rows_per_unit=1"
    assert run(units, options=["--max-units", "2"])[0] == 4
    # What the environment does not say must reach the workers by the spec.
    endpoint = f"store.endpoint={s3_server.endpoint}"
    by_spec = [endpoint, "store.region=us-east-1"]
    on_ray = ["resources.runner=ray", "resources.actors=1", "resources.cpus_per_actor=1"]

    code, found = run(units, *by_spec, *on_ray, environment=SECRETS | {"AWS_ENDPOINT_URL": None})

    assert code == 0, found["stderr"]
    assert b"finished earlier 2 units" in found["stdout"]
    assert any("session_" in name for name in found)
    assert_nothing_shows(found, s3_server)
    assert run(units, "output.path={root}/local")[0] == 0
    assert vectors(join(s3_root, "out")) == vectors(join(s3_root, "local"))


@pytest.mark.parametrize(
    ("sets", "code"),
    [
        (["store.endpoint=http://127.0.0.1:1", "store.connect_timeout=1"], 1),
        (["output.path=s3://absent-bucket-of-nobody/out"], 1),
        (["inputs.path={root}/absent"], 2),
        (["inputs.path={root}/broken"], 2),
        (["inputs.path={root}/lines"], 0),
        (["inputs.path={root}/lines", "output.on_bad_rows=fail"], 2),
        (["inputs.text_column=nosuch"], 2),
        ([f"store.secret_key={PLANTED}"], 2),
        ([f"store.endpoint=http://user:{PLANTED}@127.0.0.1:1"], 2),
        ([f"inputs.path=s3://user:{PLANTED}@bucket/in"], 2),
        ([f"inputs.path=https://host/x.parquet?X-Amz-Signature={PLANTED}"], 2),
        ([f"output.path=az://container/out?sv=1&sig={PLANTED}"], 2),
    ],
    ids=lambda value: value[-1].split("=")[0] if isinstance(value, list) else "",
)
def test_a_failure_shows_no_secret_and_no_text(run, s3_server, sets, code):
    ended, found = run(*sets, environment={"HF_TOKEN": PLANTED})

    assert ended == code, found["stderr"]
    for secret in (PLANTED, *keys(s3_server), CANARY):
        assert places_of(secret, found) == []
    assert b"Traceback" not in found["stderr"]


def test_denied_keys_are_not_shown(run, s3_server):
    if s3_server.kind == "moto":
        pytest.skip("moto takes any key")

    code, found = run(environment={"AWS_SECRET_ACCESS_KEY": PLANTED, "AWS_SESSION_TOKEN": PLANTED})

    assert code == 1
    assert b"check the credentials" in found["stderr"]
    assert places_of(PLANTED, found) == []


@pytest.mark.parametrize("key", ["access_key", "secret", "session_token", "password"])
def test_a_credential_in_a_spec_is_refused_with_where_it_goes(key, spec_of):
    values = spec_of("in").model_dump()
    values["store"][key] = PLANTED

    with pytest.raises(
        SpecError, match=f"store.{key}: no credentials here.*AWS_ACCESS_KEY_ID"
    ) as e:
        parse_spec(values)
    assert PLANTED not in str(e.value)


def test_a_spec_that_is_no_yaml_is_not_quoted(tmp_path):
    (tmp_path / "encode.yaml").write_text(f'store: {{secret: "{PLANTED}')

    with pytest.raises(SpecError, match="not valid YAML: line 1") as caught:
        load_spec(str(tmp_path / "encode.yaml"))
    assert PLANTED not in str(caught.value)


def test_an_output_that_is_input_only_is_refused_by_the_spec(spec_of):
    values = spec_of("in").model_dump()
    values["output"]["path"] = "hf://datasets/owner/name"

    with pytest.raises(SpecError, match="output.path: hf:// is for inputs only"):
        parse_spec(values)
