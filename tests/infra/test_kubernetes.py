"""What `kubectl apply -k infra/k8s/overlays/…` brings into a cluster."""

import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from stx.pipelines.spec.checks import duration_s
from stx.pipelines.spec.file import parse_spec
from tests.infra.kustomize import build, documents_of, walk
from tests.infra.schemas import OVERLAYS, check_object, check_spec

ROOT = Path(__file__).parents[2]
K8S = ROOT / "infra/k8s"
RAY = {"RayCluster", "RayJob", "RayCronJob"}
BY_OPERATOR = {"ray.io/is-ray-node": "yes"}


@pytest.fixture(params=OVERLAYS)
def overlay(request):
    return build(K8S / "overlays" / request.param)


def objects(documents, kind):
    return [each for each in documents if each["kind"] == kind]


def ray_clusters(documents):
    """The specs of all RayClusters, wherever they are."""
    yield from (each["spec"] for each in objects(documents, "RayCluster"))
    yield from walk(documents, lambda key: key == "rayClusterSpec")


def pod_specs(documents):
    for template in walk(documents, lambda key: key in ("template", "submitterPodTemplate")):
        yield template["spec"]


def containers(documents):
    for pod in pod_specs(documents):
        yield from pod["containers"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_what_kubectl_makes_of_it(name):
    folder = K8S / "overlays" / name

    made = subprocess.run(
        ["kubectl", "kustomize", folder], capture_output=True, text=True, check=True
    )

    assert by_name(build(folder)) == by_name(documents_of(made.stdout))


def by_name(documents):
    return {(each["kind"], each["metadata"]["name"]): each for each in documents}


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("dev", {"RayCluster"}),
        ("prod", {"RayCronJob"}),
        ("spot", {"RayJob"}),
        ("kueue", {"RayCronJob", "CronJob", "LocalQueue"}),
    ],
)
def test_an_overlay_starts_what_it_says(name, kinds):
    supporting = {
        "ConfigMap",
        "Namespace",
        "NetworkPolicy",
        "ServiceAccount",
        "Role",
        "RoleBinding",
    }

    assert {each["kind"] for each in build(K8S / "overlays" / name)} - supporting == kinds


def test_the_operator_would_take_it(overlay, shared_data):
    """The schemas of KubeRay 1.7's own CRDs, made strict."""
    for document in overlay:
        if document["kind"] in RAY:
            schema = strict(
                json.loads((shared_data / f"crds/{document['kind']}.v1.json").read_text())
            )
            Draft202012Validator(schema).validate(
                {key: value for key, value in document.items() if key in ("spec", "status")}
            )


def test_the_operator_would_refuse_a_misspelt_key(shared_data):
    schema = strict(json.loads((shared_data / "crds/RayJob.v1.json").read_text()))
    (job,) = objects(build(K8S / "overlays/spot"), "RayJob")
    job["spec"]["shutdownAfterJobFinish"] = job["spec"].pop("shutdownAfterJobFinishes")

    assert not Draft202012Validator(schema).is_valid({"spec": job["spec"]})


def strict(schema):
    """A CRD's schema as JSON Schema that refuses unknown keys."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and "type" in made:
        kept = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
        made |= {} if kept else {"additionalProperties": False}
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("type", None)
    return made


def test_pods_pass_the_restricted_standard(overlay):
    pods = list(pod_specs(overlay))
    assert len(pods) >= 2

    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
        for volume in pod["volumes"]:
            assert len(set(volume) & {"emptyDir", "configMap", "projected"}) == 1


def test_containers_have_no_rights_and_a_read_only_root(overlay):
    # The autoscaler is a container that the operator adds.
    added = [
        each["autoscalerOptions"] for each in ray_clusters(overlay) if "autoscalerOptions" in each
    ]

    for container in [*containers(overlay), *added]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"][
            "memory"
        ] or (container["name"] == "kubectl")
        # Ray, kubectl and Python need a place for their files.
        assert "/tmp" in {each["mountPath"] for each in container["volumeMounts"]}  # noqa: S108


def test_mounts_are_of_volumes_that_exist(overlay):
    for pod in pod_specs(overlay):
        volumes = {each["name"] for each in pod["volumes"]}
        for container in pod["containers"]:
            assert {each["name"] for each in container["volumeMounts"]} <= volumes
    for cluster in ray_clusters(overlay):
        volumes = {each["name"] for each in cluster["headGroupSpec"]["template"]["spec"]["volumes"]}
        for mount in cluster.get("autoscalerOptions", {}).get("volumeMounts", []):
            assert mount["name"] in volumes
    maps = {each["metadata"]["name"] for each in objects(overlay, "ConfigMap")}
    named = {each["name"] for each in walk(overlay, lambda key: key == "configMap")}
    assert named - {"kube-root-ca.crt"} <= maps


def test_only_what_calls_kubernetes_holds_its_token(overlay):
    accounts = {
        each["metadata"]["name"]: each.get("automountServiceAccountToken", True)
        for each in objects(overlay, "ServiceAccount")
    }

    for pod in pod_specs(overlay):
        if pod.get("serviceAccountName") != "stx-scheduler":
            assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            paths = {each["mountPath"] for each in container["volumeMounts"]}
            assert "/var/run/secrets/kubernetes.io/serviceaccount" not in paths
    assert accounts.pop("stx") is False
    assert set(accounts) <= {"stx-scheduler"}


def test_clusters_ask_for_a_token_and_are_not_exposed(overlay):
    clusters = list(ray_clusters(overlay))
    assert clusters

    for cluster in clusters:
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not {"Ingress", "Route", "Gateway", "HTTPRoute", "Service"} & {
        each["kind"] for each in overlay
    }


def test_there_are_no_secrets_in_files(overlay):
    assert not objects(overlay, "Secret")
    for container in containers(overlay):
        for variable in container.get("env", []):
            assert not re.search("(?i)token|secret|password|key", variable["name"])


# name, its labels, its namespace (None: that of the policy), port, whether it gets through
REACH = [
    ("ray node", BY_OPERATOR, None, 6379, True),
    ("ray node", BY_OPERATOR, None, 10002, True),
    ("submitter", "submitterPodTemplate", None, 8265, True),
    ("submitter", "submitterPodTemplate", None, 6379, False),
    (
        "operator",
        {"app.kubernetes.io/component": "kuberay-operator"},
        "kuberay-operator",
        8265,
        True,
    ),
    (
        "operator",
        {"app.kubernetes.io/component": "kuberay-operator"},
        "kuberay-operator",
        10001,
        False,
    ),
    ("impostor", {"app.kubernetes.io/component": "kuberay-operator"}, "elsewhere", 8265, False),
    ("submitter elsewhere", "submitterPodTemplate", "elsewhere", 8265, False),
    ("ray node elsewhere", BY_OPERATOR, "elsewhere", 6379, False),
    ("Prometheus", {}, "monitoring", 8080, True),
    ("Prometheus", {}, "monitoring", 8265, False),
    ("any pod", {"app": "any"}, None, 8265, False),
]


@pytest.mark.parametrize(("name", "labels", "namespace", "port", "expected"), REACH)
def test_who_reaches_a_ray_node(name, labels, namespace, port, expected):
    overlay = build(K8S / "overlays/prod")
    if isinstance(labels, str):
        ((template),) = walk(overlay, lambda key: key == labels)
        labels = template["metadata"]["labels"]

    assert reaches(objects(overlay, "NetworkPolicy"), labels, namespace, port) is expected, name


def reaches(policies, labels, namespace, port):
    """Whether a pod may open a connection to a Ray node; policies add up, none denies."""
    mine = [
        each["spec"]
        for each in policies
        if each["spec"]["podSelector"].get("matchLabels", {}).items() <= BY_OPERATOR.items()
    ]
    assert all(each["policyTypes"] == ["Ingress"] for each in mine)
    rules = itertools.chain.from_iterable(each.get("ingress", []) for each in mine)
    return not mine or any(
        any(is_peer(peer, labels, namespace) for peer in rule["from"])
        and port in [each["port"] for each in rule.get("ports", [{"port": port}])]
        for rule in rules
    )


def is_peer(peer, labels, namespace):
    of_pod = peer.get("podSelector", {}).get("matchLabels", {}).items() <= labels.items()
    if "namespaceSelector" not in peer:
        return namespace is None and of_pod
    name = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    return name == namespace and of_pod


def test_every_pod_is_closed_unless_opened(overlay):
    closed = [
        each["spec"] for each in objects(overlay, "NetworkPolicy") if "ingress" not in each["spec"]
    ]

    assert closed == [{"podSelector": {}, "policyTypes": ["Ingress"]}]


def test_namespaces_hold_their_pods_to_the_restricted_standard(overlay):
    (namespace,) = objects(overlay, "Namespace")

    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    names = {each["metadata"].get("namespace") for each in overlay if each is not namespace}
    assert names == {namespace["metadata"]["name"]}


def test_the_ray_of_the_nodes_is_that_of_the_image(overlay):
    (pinned,) = re.findall(r"(?m)^ray==(.*)$", (ROOT / "constraints.txt").read_text())

    assert {each["rayVersion"] for each in ray_clusters(overlay)} == {pinned}


def test_images_are_pinned(overlay):
    for container in containers(overlay):
        assert re.fullmatch(r"[a-z0-9./-]+:\d+\.\d+\.\d+(-\w+)?", container["image"])


def test_the_command_finds_its_spec(overlay):
    (spec,) = (
        each for each in objects(overlay, "ConfigMap") if each["metadata"]["name"] == "stx-spec"
    )
    for cluster in ray_clusters(overlay):
        head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
        assert {"name": "spec", "mountPath": "/etc/stx", "readOnly": True} in head["volumeMounts"]
    for entrypoint in walk(overlay, lambda key: key == "entrypoint"):
        assert entrypoint.split()[:3] == ["stx", "encode", "/etc/stx/encode.yaml"]

    assert set(spec["data"]) == {"encode.yaml"}
    check_spec(documents_of(spec["data"]["encode.yaml"])[0])


@pytest.mark.parametrize("name", ["prod", "kueue", "spot"])
def test_jobs_stop_by_themselves_and_leave_nothing_behind(name):
    overlay = build(K8S / "overlays" / name)
    jobs = [each["spec"] for each in objects(overlay, "RayJob")]
    jobs += walk(objects(overlay, "RayCronJob"), lambda key: key == "jobTemplate")
    assert len(jobs) == 1

    for job in jobs:
        *_, option, deadline = job["entrypoint"].split()
        assert (option, duration_s(deadline) < job["activeDeadlineSeconds"]) == ("--deadline", True)
        # Rules of the operator: a time to live needs the shutdown, which excludes a selector.
        assert job["shutdownAfterJobFinishes"] is True
        assert "clusterSelector" not in job
        assert job["backoffLimit"] > 0


def test_gpus_are_asked_for_where_the_image_can_use_them(overlay):
    for cluster in ray_clusters(overlay):
        for group in cluster["workerGroupSpecs"]:
            (container,) = group["template"]["spec"]["containers"]
            has_gpu = "nvidia.com/gpu" in container["resources"]["limits"]
            assert has_gpu == container["image"].endswith("-cuda")
            assert has_gpu == ("tolerations" in group["template"]["spec"])
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("name", ["prod", "spot"])
def test_workers_come_from_zero_for_the_actors_that_the_spec_asks_for(name):
    overlay = build(K8S / f"overlays/{name}")
    (cluster,) = ray_clusters(overlay)
    (group,) = cluster["workerGroupSpecs"]
    resources = parse_spec(yaml.safe_load(spec_text(overlay))).resources

    assert cluster["enableInTreeAutoscaling"] is True
    assert (group["replicas"], group["minReplicas"]) == (0, 0)
    assert resources.actors == (1, group["maxReplicas"])
    # With no GPU there at the start, stx would take CPUs.
    assert resources.gpus_per_actor == 1


def spec_text(overlay):
    (spec,) = (each for each in objects(overlay, "ConfigMap") if "encode.yaml" in each["data"])
    return spec["data"]["encode.yaml"]


def test_the_head_computes_nothing(overlay):
    for cluster in ray_clusters(overlay):
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_kueue_admits_the_whole_run():
    overlay = build(K8S / "overlays/kueue")
    quota = by_name(documents_of((K8S / "overlays/kueue/quota.yaml").read_text()))
    (template,) = objects(overlay, "RayCronJob")
    (queue,) = objects(overlay, "LocalQueue")
    (cluster,) = ray_clusters(overlay)
    (group,) = cluster["workerGroupSpecs"]
    (limits,) = quota["ClusterQueue", "stx"]["spec"]["resourceGroups"]

    assert template["spec"]["suspend"] is True
    assert template["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == queue["metadata"]["name"]
    assert ("ClusterQueue", queue["spec"]["clusterQueue"]) in quota
    assert ("ResourceFlavor", limits["flavors"][0]["name"]) in quota
    assert cluster["enableInTreeAutoscaling"] is False
    assert "autoscalerOptions" not in cluster
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    gpus = {each["name"]: each["nominalQuota"] for each in limits["flavors"][0]["resources"]}
    assert set(gpus) == set(limits["coveredResources"])
    assert gpus["nvidia.com/gpu"] >= group["replicas"]


def test_spot_machines_are_for_workers_only():
    (cluster,) = ray_clusters(build(K8S / "overlays/spot"))

    def terms(template):
        affinity = template["spec"]["affinity"]["nodeAffinity"]
        return affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]

    on_spot = terms(cluster["workerGroupSpecs"][0]["template"])
    (off_spot,) = terms(cluster["headGroupSpec"]["template"])
    # Terms are alternatives, expressions of one term are not.
    assert [len(each["matchExpressions"]) for each in on_spot] == [1, 1, 1, 1]
    assert {each["matchExpressions"][0]["operator"] for each in on_spot} == {"In"}
    assert {each["operator"] for each in off_spot["matchExpressions"]} == {"NotIn", "DoesNotExist"}
    assert {each["matchExpressions"][0]["key"] for each in on_spot} == {
        each["key"] for each in off_spot["matchExpressions"]
    }


def test_the_scheduler_may_do_no_more_than_it_does():
    overlay = build(K8S / "overlays/kueue")
    (role,) = objects(overlay, "Role")
    (binding,) = objects(overlay, "RoleBinding")
    (cron,) = objects(overlay, "CronJob")
    pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]

    assert role["rules"] == [
        {
            "apiGroups": ["ray.io"],
            "resources": ["raycronjobs"],
            "resourceNames": ["stx"],
            "verbs": ["get"],
        },
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]},
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [each["name"] for each in binding["subjects"]] == [pod["serviceAccountName"]]
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"


# The shell script of components/cronjob


FAKE_KUBECTL = """#!/bin/sh
echo "$*" >> "$LOG/calls"
case "$*" in
  *metadata.labels*) cat "$LOG/labels" ;;
  *spec.jobTemplate*) cat "$LOG/spec" ;;
  create*) cat > "$LOG/created"; echo rayjob.ray.io/stx-abcde ;;
  *jobDeploymentStatus*)
    state=$(head -n 1 "$LOG/states"); sed -i 1d "$LOG/states"; echo "$state" ;;
  *status.message*) echo "no GPUs" ;;
esac
"""


@pytest.fixture
def run_script(tmp_path):
    """Runs the script with a kubectl that gives the overlay's RayCronJob and the given states."""
    (template,) = objects(build(K8S / "overlays/kueue"), "RayCronJob")

    def run(labels, *states):
        (tmp_path / "kubectl").write_text(FAKE_KUBECTL)
        (tmp_path / "kubectl").chmod(0o755)
        (tmp_path / "labels").write_text(json.dumps(labels) if labels else "")
        (tmp_path / "spec").write_text(json.dumps(template["spec"]["jobTemplate"]))
        (tmp_path / "states").write_text("\n".join(states) + "\n")
        done = subprocess.run(
            ["sh", K8S / "components/cronjob/run-rayjob.sh", "stx"],
            env=os.environ
            | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(tmp_path), "POLL_S": "0"},
            capture_output=True,
            text=True,
        )
        return done, json.loads((tmp_path / "created").read_text())

    return run


@pytest.mark.parametrize("labels", [{"kueue.x-k8s.io/queue-name": "stx"}, {}])
def test_the_script_makes_a_ray_job_and_waits_for_it(run_script, labels):
    done, created = run_script(labels, "", "Initializing", "Running", "Complete")

    check_object(created)
    assert created["kind"] == "RayJob"
    assert created["metadata"] == {"generateName": "stx-", "labels": labels}
    assert created["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "rayjob.ray.io/stx-abcde: complete"


def test_the_script_fails_with_the_job(run_script):
    done, _ = run_script({}, "Running", "Failed")

    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "no GPUs")
