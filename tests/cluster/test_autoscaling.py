"""Nodes that come when they are needed, and go: Ray's autoscaler, with raylets on this machine."""

import pytest

from stx_core.store.snapshot import open_snapshot
from tests.faults.corpus import N_UNITS
from tests.faults.job import finish, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def cluster(nodes):
    nodes.start_autoscaled_head({"CPU": 2, "object_store_memory": 100_000_000}, most=2)
    return nodes


def encode(cluster, spec_file, actors):
    sets = ("runner=ray", "cpus_per_actor=1", f"actors={actors}")
    options = [word for item in sets for word in ("--set", f"resources.{item}")]
    return cluster.stx("encode", spec_file, *options, RAY_ADDRESS=cluster.address)


def test_a_number_of_actors_is_refused_where_no_node_has_joined(cluster, spec_file):
    refused = finish(encode(cluster, spec_file, 2))

    assert refused.returncode == 2
    assert "but the cluster has 0; lower resources.actors" in refused.stderr


def test_a_range_starts_from_zero_grows_and_leaves_no_node_behind(cluster, spec_file, values):
    cluster.arm("encode.mid", "sleep:4", times=N_UNITS)
    most = 0

    def ended(process):
        nonlocal most
        most = max(most, cluster.count())
        return process.poll() is not None

    assert cluster.count() == 1
    process = encode(cluster, spec_file, "[1,3]")
    wait_until(lambda: ended(process))
    done = finish(process)

    assert done.returncode == 0, done.stderr
    assert "run on   ray: 1 to 3 actors x 1 core" in done.stdout
    assert "waiting for nodes to join" in done.stderr
    assert most == 3, "the pool did not grow beyond the first node"
    root = values["output"]["path"]
    assert open_snapshot(root).count_rows() == 186
    wait_until(lambda: cluster.count() == 1)
