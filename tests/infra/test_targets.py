"""Clusters by `ray up`, Anyscale, schedules, compose: what their files promise each other."""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import stx
from tests.infra.kustomize import build, walk

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"


def load(name):
    return yaml.safe_load((INFRA / name).read_text())


def test_images_are_of_this_version():
    version = stx.__version__
    tags = {
        (path.relative_to(INFRA).as_posix(), tag)
        for path in INFRA.rglob("*")
        if path.suffix in (".yaml", ".py")
        for tag in re.findall(
            r"registry\.example\.com/stx:([\w.]+)|newTag: ([\w.]+)", path.read_text()
        )
    }

    assert {name for name, _ in tags} >= {"ray/aws.yaml", "anyscale/job.yaml"}
    assert {"".join(tag) for _, tag in tags} == {version}


@pytest.mark.parametrize("name", ["ray/aws.yaml", "ray/gcp.yaml"])
def test_a_launched_cluster_asks_for_a_token_and_is_not_exposed(name):
    cluster = load(name)
    (head,) = (each for each in cluster["head_start_ray_commands"] if "ray start" in each)

    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert "--dashboard-host=127.0.0.1" in shlex.split(head)
    assert "/home/stx/.ray/auth_token" in cluster["file_mounts"]
    assert cluster["provider"]["use_internal_ips"] is True


@pytest.mark.parametrize("name", ["ray/aws.yaml", "ray/gcp.yaml"])
def test_a_launched_cluster_installs_nothing_and_has_the_gpus_that_the_spec_asks_for(name):
    from ray.autoscaler._private.util import prepare_config

    cluster = prepare_config(load(name))

    commands = [cluster[key] for key in cluster if key.endswith("setup_commands")]
    assert len(commands) == 3
    assert {each for each in sum(commands, [])} == {"true"}
    asked = load("k8s/base/encode.yaml")["resources"]["actors"]
    workers = cluster["available_node_types"]["gpu"]
    assert (workers["min_workers"], workers["max_workers"]) == (0, asked[1])
    assert "--num-cpus=0" in " ".join(cluster["head_start_ray_commands"])


def test_ec2_roles_are_read_with_a_token_and_disks_are_encrypted():
    for node in load("ray/aws.yaml")["available_node_types"].values():
        config = node["node_config"]
        assert config["MetadataOptions"]["HttpTokens"] == "required"
        assert config["IamInstanceProfile"]
        assert config["SecurityGroupIds"]
        assert all(each["Ebs"]["Encrypted"] for each in config["BlockDeviceMappings"])


@pytest.mark.parametrize("name", ["airflow_dag.py", "dagster_job.py"])
def test_schedules_of_python_compile(name):
    ast.parse((INFRA / "schedules" / name).read_text())


def test_schedules_submit_to_the_standing_cluster_of_the_overlay():
    (cluster,) = (
        each for each in build(INFRA / "k8s/overlays/dev") if each["kind"] == "RayCluster"
    )
    name, namespace = cluster["metadata"]["name"], cluster["metadata"]["namespace"]
    (submitter,) = walk(
        build(INFRA / "k8s/overlays/prod"), lambda key: key == "submitterPodTemplate"
    )
    label = submitter["metadata"]["labels"]["app.kubernetes.io/component"]

    airflow = (INFRA / "schedules/airflow_dag.py").read_text()
    argo = load("schedules/argo_cronworkflow.yaml")
    job = yaml.safe_load(argo["spec"]["workflowSpec"]["templates"][0]["resource"]["manifest"])

    # KubeRay names the service and, with authOptions, the Secret after the cluster.
    assert f'"http://{name}-head-svc:8265"' in airflow
    assert f'secret="{name}", key="auth_token"' in airflow
    assert f'NAMESPACE = "{namespace}"' in airflow
    specs = [each for each in build(INFRA / "k8s/overlays/dev") if each["kind"] == "ConfigMap"]
    assert f'name="{specs[0]["metadata"]["name"]}"' in airflow
    assert "encode.yaml" in specs[0]["data"]
    assert '"/etc/stx/encode.yaml"' in airflow
    assert f'"app.kubernetes.io/component": "{label}"' in airflow
    assert argo["metadata"]["namespace"] == namespace
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": name}
    labels = job["spec"]["submitterPodTemplate"]["metadata"]["labels"]
    assert labels == {"app.kubernetes.io/component": label}


# Compose


def test_nothing_is_open_beyond_this_machine():
    for service in load("compose/compose.yaml")["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_compose_has_no_secrets_and_pinned_images():
    compose = load("compose/compose.yaml")
    secrets = {
        value
        for values in walk(compose, lambda key: key == "environment")
        for name, value in values.items()
        if re.search("TOKEN|SECRET|ACCESS_KEY", name)
    }

    assert len(secrets) == 3
    # Compose ends with this message where the variable is not set.
    assert all(
        re.fullmatch(r"\$\{\w+:\?write it to infra/compose/\.env.*\}", each) for each in secrets
    )
    assert "/infra/compose/.env" in (ROOT / ".gitignore").read_text().split()
    for service in compose["services"].values():
        assert "build" in service or re.search(r":v?\d+\.\d+(\.\d+)?$", service["image"])


def test_the_ray_of_compose_has_no_rights_and_asks_for_a_token():
    services = load("compose/compose.yaml")["services"]

    for name in ("head", "worker", "bucket"):
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["security_opt"] == ["no-new-privileges:true"]
        assert services[name]["environment"]["RAY_AUTH_MODE"] == "token"
        assert services[name]["build"]["target"] == "cpu"
    assert (INFRA / "compose" / services["head"]["build"]["context"]).resolve() == ROOT


def test_the_bucket_is_made_once(s3_server):
    """The command of compose.yaml, on the S3 server of the tests."""
    python, *arguments = load("compose/compose.yaml")["services"]["bucket"]["command"]
    bucket = f"compose-{os.getpid()}"
    arguments = [each.replace('"lake"', f'"{bucket}"') for each in arguments]
    environment = os.environ | s3_server.environment

    for _ in range(2):
        done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr

    assert python == "python"
    client = s3_server.client()
    assert bucket in {each["Name"] for each in client.list_buckets()["Buckets"]}
    client.delete_bucket(Bucket=bucket)


def test_prometheus_asks_the_port_on_which_ray_answers():
    services = load("compose/compose.yaml")["services"]
    (job,) = load("compose/prometheus.yaml")["scrape_configs"]
    (discovery,) = job["dns_sd_configs"]

    assert discovery["names"] == ["head", "worker"]
    for name in discovery["names"]:
        assert f"--metrics-export-port={discovery['port']}" in services[name]["command"].split()


def test_grafana_finds_its_files():
    compose = load("compose/compose.yaml")
    mounts = [each.split(":") for each in compose["services"]["grafana"]["volumes"]]
    (provider,) = load("compose/grafana/dashboards.yaml")["providers"]
    (source,) = load("compose/grafana/datasources.yaml")["datasources"]

    for here, _, mode in mounts:
        assert (INFRA / "compose" / here).exists()
        assert mode == "ro"
    assert provider["options"]["path"] in {there for _, there, _ in mounts}
    assert source["url"] == "http://prometheus:9090"
