"""What `stx doctor` sees, and says where a run would fail."""

import logging

import numpy as np
import pytest

from stx.pipelines import doctor


@pytest.fixture(scope="module")
def model(tmp_path_factory, save_static_model):
    folder = tmp_path_factory.mktemp("model")
    return save_static_model(folder, ["stars"], np.ones((2, 4), np.float32))


def states(printed):
    """State by name of the check."""
    return {line.split()[1]: line.split()[0] for line in printed.splitlines()}


def test_a_machine_a_store_and_a_model_that_are_fine(stx, model, tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # With the level of info, which tests before this one may have set, models show progress bars.
    caplog.set_level(logging.INFO, "stx_core")

    code, printed, errors = stx("doctor", tmp_path / "out", "--model", model)

    assert (code, errors) == (0, "")
    assert list(states(printed)) == [
        *("machine", "disk", "store", "packages", "plug-ins", "kernels", "GPU", "Ray", "model")
    ]
    assert set(states(printed).values()) <= {"ok", "note"}
    assert "4 dimensions" in printed


def test_what_would_fail_is_named_and_the_rest_is_looked_at(stx, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    # Tests before this one may have left Ray running in this process.
    monkeypatch.setattr("ray.is_initialized", lambda: False)

    code, printed, _ = stx("doctor", tmp_path / "file/out", "--model", tmp_path / "nowhere")

    seen = states(printed)
    assert code == 1
    assert {name for name, state in seen.items() if state == "fail"} == {"store", "Ray", "model"}
    assert "no Ray cluster answers there" in printed


@pytest.mark.parametrize(
    ("name", "value", "check", "line"),
    [
        ("_LEAST_DISK_BYTES", 1 << 62, "disk", "free some, or let TMPDIR name another folder"),
        ("_LEAST_SHARED_MEMORY_BYTES", 1 << 62, "machine", "start the container with --shm-size"),
        ("_PACKAGES", ("torch", "no-such-package"), "packages", "no-such-package missing"),
    ],
)
def test_limits_and_packages(monkeypatch, name, value, check, line):
    monkeypatch.setattr(doctor, name, value)

    (seen,) = [seen for seen in doctor.checks() if seen.name == check]

    assert seen.state != "ok"
    assert line in seen.text


def test_a_model_of_another_kind_is_a_line(stx, model):
    code, printed, _ = stx("doctor", "--model", model, "--type", "reranker")

    assert code == 1
    assert states(printed)["model"] == "fail"
    assert stx("doctor", "--type", "splade")[0] == 2
