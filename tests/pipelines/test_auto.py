"""What a spec leaves to us: the runner, and what models compute in."""

import pytest

from stx.pipelines.encode import run_encode
from stx.pipelines.planning import dtype, runner
from stx.pipelines.planning.runner import with_runner
from stx.pipelines.spec.encode import EncodeSpec
from stx_core.errors import Stopped
from stx_core.store.snapshot import snapshot_info


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Sets the cores and what the CPU is fast at."""

    def set_to(cores=16, kind="avx512-bf16", gpus=False):
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(runner, "available_cores", lambda: cores)
        monkeypatch.setattr(runner, "_GPUS", tmp_path if gpus else tmp_path / "none")
        monkeypatch.setattr(dtype, "cpu_class", lambda: kind)

    return set_to


def spec_with(**resources):
    return EncodeSpec.model_validate(
        {
            "inputs": {"path": "in"},
            "models": {"dense": {"model": "m"}},
            "output": {"path": "out"},
            "resources": resources,
        }
    )


def chosen(n_units, n_rows, **resources):
    return with_runner(spec_with(**resources), n_units, n_rows).resources.runner


def test_ray_is_taken_where_several_actors_work(machine):
    machine(cores=16)

    assert chosen(100, 400_000) == "ray"


@pytest.mark.parametrize(("n_units", "n_rows"), [(1, 100_000), (20, 4000)])
def test_auto_runs_small_work_locally(machine, n_units, n_rows):
    machine(cores=16)

    assert chosen(n_units, n_rows) == "local"


def test_auto_runs_a_single_actor_locally(machine):
    machine(cores=2)

    assert chosen(100, 400_000) == "local"


@pytest.mark.parametrize("asked", [{"actors": 1}, {"gpus_per_actor": 1}, {"runner": "ray"}])
def test_auto_takes_ray_where_actors_are_set(machine, asked):
    machine(cores=2)

    assert chosen(1, 10, **asked) == "ray"


def test_a_cluster_or_a_gpu_is_used(machine, monkeypatch):
    machine(gpus=True)
    assert chosen(1, 10) == "ray"

    machine()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert chosen(1, 10) == "ray"


def dtype_of(root):
    return snapshot_info(str(root)).outputs["dense"]["settings"]["dtype"]


@pytest.mark.parametrize(
    ("kind", "dtype"), [("amx", "bfloat16"), ("avx512-bf16", "bfloat16"), ("other", "float32")]
)
def test_auto_dtype_follows_the_cpu(kind, dtype, machine, corpus, spec_of, tmp_path):
    machine(kind=kind)
    run_encode(spec_of(corpus))

    assert dtype_of(tmp_path / "out") == dtype


def test_a_dataset_keeps_its_dtype_on_another_machine(machine, corpus, spec_of, tmp_path):
    machine(kind="other")
    run_encode(spec_of(corpus))
    machine(kind="amx")

    again = run_encode(spec_of(corpus))

    assert not again.committed
    assert dtype_of(tmp_path / "out") == "float32"


def test_another_setting_of_the_model_may_change_the_dtype(
    machine, corpus, spec_of, tmp_path, static_model
):
    machine(kind="other")
    run_encode(spec_of(corpus))
    machine(kind="amx")

    model = {"model": str(static_model), "normalize": True}
    changed = run_encode(spec_of(corpus, models={"dense": model}))

    assert changed.committed
    assert dtype_of(tmp_path / "out") == "bfloat16"


def test_an_interrupted_run_goes_on_in_its_dtype_on_another_machine(
    machine, corpus, spec_of, tmp_path
):
    machine(kind="other")
    with pytest.raises(Stopped):
        run_encode(spec_of(corpus, resources={"max_units": 1}))
    machine(kind="amx")

    done = run_encode(spec_of(corpus))

    assert done.committed
    assert dtype_of(tmp_path / "out") == "float32"
