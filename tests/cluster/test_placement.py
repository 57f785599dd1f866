"""Which node runs what: actors where their resources are, the rest where CPUs are left."""

import os

import pyarrow as pa
import pytest
import ray
from ray.cluster_utils import Cluster

from stx.pipelines.running.cluster import check_fits
from stx.pipelines.running.stream import StageSpec, run
from stx_core.errors import SpecError

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster():
    """A head that computes nothing; a node of CPUs, one with a simulated GPU, one that is named."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    kinds = {
        "cpu": {"num_cpus": 2},
        "gpu": {"num_cpus": 1, "num_gpus": 1},
        "fast": {"num_cpus": 1, "resources": {"fast": 1}},
    }
    names = {cluster.add_node(**settings).node_id: name for name, settings in kinds.items()}
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    os.environ["RAY_ADDRESS"] = cluster.address
    yield names
    del os.environ["RAY_ADDRESS"]
    ray.shutdown()
    cluster.shutdown()


def here():
    return ray.get_runtime_context().get_node_id()


class Where:
    """A stage that adds the node it runs on."""

    def __call__(self, table):
        return table.append_column("stage", pa.array([here()]))


def read(unit):
    return pa.table({"read": [here()]})


def write(unit, table):
    return {"read": table["read"][0].as_py(), "stage": table["stage"][0].as_py(), "write": here()}


def places(names, stage):
    """Names of the nodes on which each step of eight units ran."""
    found = list(run([{"unit": n} for n in range(8)], read, [stage], write, "ray"))
    assert len(found) == 8
    return {step: {names[result[step]] for result in found} for step in ("read", "stage", "write")}


def test_an_actor_is_on_the_gpu_and_with_all_cpus_of_its_node_keeps_writers_off(cluster):
    found = places(cluster, StageSpec(Where, actors=1, cpus=1, gpus=1))

    assert found["stage"] == {"gpu"}
    assert "gpu" not in found["write"]


def test_custom_resources_choose_the_node(cluster):
    found = places(cluster, StageSpec(Where, actors=1, cpus=1, custom={"fast": 1}))

    assert found["stage"] == {"fast"}


def test_custom_resources_that_are_not_there_are_refused(cluster):
    stage = StageSpec(Where, actors=2, cpus=1, custom={"fast": 1})

    with pytest.raises(SpecError, match="2 actors take 2 fast, but the cluster has 1"):
        check_fits([stage], 4, 1)
