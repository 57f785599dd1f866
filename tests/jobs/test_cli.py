"""What a person at the command line meets: exit codes, one-line errors, the output of commands."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture
def stx(stx_process):
    """Runs a command; gives its exit code and what it printed."""
    return stx_process


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, minilm, stx_process):
    folder = tmp_path_factory.mktemp("cli")
    texts = [
        "A cat sleeps on the warm windowsill.",
        "The bank raised its interest rates again.",
        "Plants turn sunlight into sugar.",
        None,
    ]
    table = pa.table({"id": [1, 2, 3, 4], "text": texts, "kind": ["pet", "money", "leaf", "none"]})
    pq.write_table(table, folder / "corpus.parquet")
    out = folder / "out"
    done = stx_process(
        *("encode", folder / "corpus.parquet", out, "--model", minilm),
        *("--set", "inputs.columns=[kind]", "--set", "resources.runner=local"),
    )
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_encode_says_what_it_did(dataset):
    out, printed = dataset

    assert f"committed version 1 of {out}" in printed
    assert "3 rows in 1 file," in printed
    assert "1 x null_text" in printed


def test_search_finds_the_nearest_row_with_the_snapshots_own_model(stx, dataset):
    out, _ = dataset

    found = stx("search", out, "how does photosynthesis work", "--top-k", 1)

    assert found.returncode == 0, found.stderr
    assert "leaf" in found.stdout
    assert "money" not in found.stdout


def test_show_tells_version_rows_and_schema(stx, dataset):
    out, _ = dataset

    shown = stx("show", out)

    assert "version 1" in shown.stdout
    assert "3 rows, 384 x float32" in shown.stdout
    assert "fixed_size_list<element: float>[384]" in shown.stdout


def test_show_files_lists_what_other_engines_can_open(stx, dataset):
    out, _ = dataset

    listed = stx("show", out, "--files").stdout.split()

    assert [pq.read_table(file).num_rows for file in listed] == [3]


def test_versions_can_be_listed_rolled_back_and_collected(stx, dataset, minilm):
    out, _ = dataset
    more = ("--set", "resources.runner=local", "--model", minilm)
    assert stx("encode", out.parent / "corpus.parquet", out, *more).returncode == 0

    restored = stx("rollback", out, 1)
    listed = stx("show", out, "--versions").stdout.splitlines()
    planned = stx("gc", out, "--keep", 1, "--older-than", 0, "--dry-run")
    collected = stx("gc", out, "--keep", 1, "--older-than", 0)
    expired = stx("show", out, "--version", 2)

    assert f"{out}: version 3 is current, with 4 rows" in restored.stdout
    assert [line.split()[0] for line in listed] == ["1", "2", "3"]
    assert all(line.endswith("rows: dense 3") for line in listed)
    assert "would delete" in planned.stdout
    assert "  versions   1, 2\n" in collected.stdout
    assert expired.returncode == 1
    assert "version 2 was removed by gc or forget; kept are 3" in expired.stderr
    assert "kind" in stx("show", out).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["encode", "nowhere.yaml"], 2, "stx: nowhere.yaml: No such file"),
        (["encode", "a", "b"], 2, "stx: stx encode a b needs --model NAME"),
        (["show", "nowhere"], 1, "no snapshot was committed here"),
        (["search", "nowhere", "q"], 1, "no snapshot was committed here"),
    ],
)
def test_mistakes_are_one_line_with_an_exit_code(stx, arguments, code, message):
    failed = stx(*arguments)

    assert failed.returncode == code
    assert message in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


def test_too_many_quarantined_rows_end_with_exit_code_3(stx, dataset, tmp_path, save_static_model):
    corpus = dataset[0].parent / "corpus.parquet"
    model = save_static_model(tmp_path / "model", ["cat"], np.ones((2, 4), np.float32))

    done = stx(
        *("encode", corpus, tmp_path / "out", "--model", model),
        *("--set", "output.max_quarantined=0.1", "--set", "resources.runner=local"),
    )

    assert done.returncode == 3
    assert "25.00% of the rows are quarantined" in done.stderr


@pytest.mark.parametrize(
    "command", [("stx.jobs.encode",), ("stx.jobs", "encode"), ("stx.jobs", "retrieve")]
)
def test_a_clone_has_the_same_commands_as_modules(command):
    helped = subprocess.run(
        [sys.executable, "-m", *command, "--help"], capture_output=True, text=True
    )

    assert helped.returncode == 0
    assert "--dry-run" in helped.stdout


def test_help_loads_neither_torch_nor_ray():
    code = (
        "import sys; sys.argv = ['stx', '--help']\n"
        "import stx.jobs.cli\n"
        "try: stx.jobs.cli.main()\n"
        "except SystemExit:\n"
        "    heavy = ('torch', 'ray', 'pydantic', 'jinja2')\n"
        "    print([name for name in heavy if name in sys.modules])"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert answer.stdout.splitlines()[-1] == "[]", answer.stdout + answer.stderr
