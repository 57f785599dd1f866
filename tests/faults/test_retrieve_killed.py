"""`stx retrieve` with actors and drivers killed: the rankings are those of a full comparison."""

import json
import os
import subprocess
import sys

import pytest

from stx_core.store.verify import find_problems
from tests.pipelines.conftest import static_model  # noqa: F401  (a fixture)
from tests.pipelines.retrieval import assert_same, lake, read_ranking, slow_ranking

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture
def datasets(tmp_path, static_model):  # noqa: F811
    return lake(tmp_path, static_model)


@pytest.fixture
def retrieve(datasets, tmp_path):
    """Runs the command with armed failpoints; gives its exit code and what it printed."""
    corpus, queries = datasets
    tokens = tmp_path / "failpoints"
    tokens.mkdir()

    def run(resources, *armed):
        for token in armed:
            (tokens / token).touch()
        spec = {
            "queries": {"path": queries},
            "corpus": {"path": corpus},
            "k": 7,
            "output": {"path": str(tmp_path / "ranking")},
            "resources": {"rows_per_unit": 4, "rows_per_group": 60, **resources},
        }
        (tmp_path / "retrieve.yaml").write_text(json.dumps(spec))
        done = subprocess.run(
            [sys.executable, "-m", "stx.jobs.cli", "retrieve", str(tmp_path / "retrieve.yaml")],
            env=os.environ | {"STX_FAILPOINTS": str(tokens), "OMP_NUM_THREADS": "2"},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        fired = [t.name for t in tokens.glob("used.*") if not t.name.endswith("=pass")]
        return done, fired

    return run


def check(datasets, tmp_path):
    root = str(tmp_path / "ranking")
    assert_same(read_ranking(root, "dense"), slow_ranking(*datasets, "dense", "cosine", 7))
    assert list(find_problems(root)) == []


def test_a_killed_actor_changes_nothing(retrieve, datasets, tmp_path):
    place = "search.mid"
    passes = [f"{place}@{number:03}=pass" for number in range(1, 6)]

    done, fired = retrieve({"actors": 2, "cpus_per_actor": 1}, *passes, f"{place}@006=SIGKILL")

    assert fired == [f"used.{place}@006=SIGKILL"]
    assert done.returncode == 0, done.stderr
    check(datasets, tmp_path)


@pytest.mark.parametrize("at", [3, 20, 34])
def test_a_killed_driver_leaves_what_the_next_start_needs(retrieve, datasets, tmp_path, at):
    """32 cells and 8 blocks: the third place is among the blocks."""
    passes = [f"ledger.after@{number:03}=pass" for number in range(1, at)]

    killed, fired = retrieve({"runner": "local"}, *passes, f"ledger.after@{at:03}=SIGKILL")
    again, _ = retrieve({"runner": "local"})

    assert killed.returncode == -9
    assert len(fired) == 1
    assert again.returncode == 0, again.stderr
    check(datasets, tmp_path)
