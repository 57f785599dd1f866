"""What each file of infra/ may say: unknown keys are refused, so that a slip of the pen is found.

Objects of Kubernetes go by its own schemas, compose files by theirs, clusters of `ray up` by Ray's
and botocore's. The rest is described here, as far as infra/ uses it.
"""

import copy
import functools
import importlib.resources
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from kubernetes_validate import utils
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from tests.infra.kustomize import Document, Kustomization, Operation, build, documents_of

OVERLAYS = ("dev", "prod", "kueue", "spot")
Resource = Literal["cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


# Objects of Kubernetes

# It would read all schemas again for every object.
utils.schema_contents = functools.cache(utils.schema_contents)


@functools.cache
def _kubernetes_accepts(text: str) -> None:
    utils.validate(json.loads(text), utils.latest_version(), strict=True)


def _as_kubernetes(document: Document) -> Document:
    for container in _containers_of(document):
        for amounts in container["resources"].values():
            TypeAdapter(dict[Resource, str]).validate_python(amounts, strict=True)
    _kubernetes_accepts(json.dumps(document, sort_keys=True))
    return document


def _containers_of(document: Document) -> list[Document]:
    pods = {
        "Pod": lambda: document["spec"],
        "CronJob": lambda: document["spec"]["jobTemplate"]["spec"]["template"]["spec"],
    }
    return pods[document["kind"]]()["containers"] if document["kind"] in pods else []


def _pod_template(value: Document) -> Document:
    assert set(value) == {"metadata", "spec"}, sorted(value)
    _as_kubernetes({"apiVersion": "v1", "kind": "Pod", **value})
    return value


def _container(value: Document) -> Document:
    """Settings of a container whose name and image the operator knows."""
    container = {"name": "autoscaler", "image": "ray", **value}
    _pod_template({"metadata": {}, "spec": {"containers": [container]}})
    return value


def _runtime_env(text: str) -> str:
    TypeAdapter(RuntimeEnvironment).validate_python(documents_of(text)[0])
    return text


class RuntimeEnvironment(Part):
    env_vars: dict[Literal["RAY_JOB_STOP_WAIT_TIME_S"], str]


PodTemplate = Annotated[Document, AfterValidator(_pod_template)]


class Metadata(Part):
    name: str | None = None
    generateName: str | None = None
    namespace: str | None = None
    labels: dict[str, str] = Field(default={})
    annotations: dict[str, str] = Field(default={})


class AuthOptions(Part):
    mode: Literal["token"]


class AutoscalerOptions(Part):
    version: Literal["v2"]
    idleTimeoutSeconds: int
    resources: Document
    securityContext: Document
    volumeMounts: list[Document]


def _autoscaler(options: AutoscalerOptions) -> AutoscalerOptions:
    _container(options.model_dump(include={"resources", "securityContext", "volumeMounts"}))
    return options


class HeadGroup(Part):
    serviceType: Literal["ClusterIP"]
    rayStartParams: dict[Literal["num-cpus"], str]
    template: PodTemplate


class WorkerGroup(Part):
    groupName: str
    replicas: int
    minReplicas: int
    maxReplicas: int
    rayStartParams: dict[Literal["num-cpus"], str]
    template: PodTemplate


class RayClusterSpec(Part):
    rayVersion: str
    authOptions: AuthOptions
    enableInTreeAutoscaling: bool
    autoscalerOptions: Annotated[AutoscalerOptions, AfterValidator(_autoscaler)] | None = None
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]


class RayJobSpec(Part):
    entrypoint: str
    activeDeadlineSeconds: int | None = None
    preRunningDeadlineSeconds: int | None = None
    backoffLimit: int | None = None
    shutdownAfterJobFinishes: bool = False
    ttlSecondsAfterFinished: int | None = None
    metadata: dict[str, str] = Field(default={})
    runtimeEnvYAML: Annotated[str, AfterValidator(_runtime_env)] | None = None
    submitterPodTemplate: PodTemplate
    clusterSelector: dict[Literal["ray.io/cluster"], str] | None = None
    rayClusterSpec: RayClusterSpec | None = None


class RayCronJobSpec(Part):
    schedule: str
    timeZone: str
    suspend: bool = False
    # An overlay puts it in; whether it did, the tests of overlays ask.
    jobTemplate: RayJobSpec | None = None


class RayCluster(Part):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: RayClusterSpec


class RayJob(Part):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec


class RayCronJob(Part):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCronJob"]
    metadata: Metadata
    spec: RayCronJobSpec


class LocalQueueSpec(Part):
    clusterQueue: str


class LocalQueue(Part):
    apiVersion: Literal["kueue.x-k8s.io/v1beta2"]
    kind: Literal["LocalQueue"]
    metadata: Metadata
    spec: LocalQueueSpec


class ResourceFlavor(Part):
    apiVersion: Literal["kueue.x-k8s.io/v1beta2"]
    kind: Literal["ResourceFlavor"]
    metadata: Metadata


class Quota(Part):
    name: Resource
    nominalQuota: int | str


class Flavor(Part):
    name: str
    resources: list[Quota]


class ResourceGroup(Part):
    coveredResources: list[Resource]
    flavors: list[Flavor]


class NamespaceSelector(Part):
    matchLabels: dict[Literal["kubernetes.io/metadata.name"], str]


class Preemption(Part):
    withinClusterQueue: Literal["LowerPriority"]


class ClusterQueueSpec(Part):
    namespaceSelector: NamespaceSelector
    queueingStrategy: Literal["BestEffortFIFO"]
    preemption: Preemption
    resourceGroups: list[ResourceGroup]


class ClusterQueue(Part):
    apiVersion: Literal["kueue.x-k8s.io/v1beta2"]
    kind: Literal["ClusterQueue"]
    metadata: Metadata
    spec: ClusterQueueSpec


_CUSTOM: tuple[type[BaseModel], ...] = (
    RayCluster,
    RayJob,
    RayCronJob,
    LocalQueue,
    ResourceFlavor,
    ClusterQueue,
)
CUSTOM = {model.__name__: model for model in _CUSTOM}


def check_object(document: Document) -> None:
    """Refuse what the API server would refuse, or drop in silence.

    The names of labels and annotations cannot be known; `tests/infra/test_kubernetes.py` asks for
    those that do something.
    """
    custom = CUSTOM.get(document["kind"])
    if custom is None:
        _as_kubernetes(document)
    else:
        custom.model_validate(document)


def check_kubernetes_file(path: Path) -> None:
    """Check one file of infra/k8s."""
    documents = documents_of(path.read_text())
    if path.name == "kustomization.yaml":
        Kustomization(**documents[0])
    elif path.name == "encode.yaml":
        check_spec(documents[0])
    elif isinstance(documents[0], list):
        TypeAdapter(list[Operation]).validate_python(documents[0])
    else:
        for document in documents:
            check_object(document)


def check_overlays(folder: Path) -> None:
    """Check what the overlays in a copy of infra/k8s make of its files."""
    for overlay in OVERLAYS:
        for document in build(folder / "overlays" / overlay):
            check_object(document)


def check_spec(values: Document) -> None:
    """A spec of stx itself."""
    from stx.pipelines.spec.encode import EncodeSpec

    EncodeSpec.model_validate(values)


# Clusters that `ray up` starts


class GcpDiskParameters(Part):
    diskSizeGb: int
    sourceImage: str


class GcpDisk(Part):
    boot: bool
    autoDelete: bool
    type: Literal["PERSISTENT"]
    initializeParams: GcpDiskParameters


class GcpInterface(Part):
    subnetwork: str


class GcpServiceAccount(Part):
    email: str
    scopes: list[str]


class GcpScheduling(Part):
    provisioningModel: Literal["SPOT"]
    onHostMaintenance: Literal["TERMINATE"]


class GcpInstance(Part):
    """Of `Instance` in the Compute API, v1."""

    machineType: str
    disks: list[GcpDisk]
    networkInterfaces: list[GcpInterface]
    serviceAccounts: list[GcpServiceAccount]
    scheduling: GcpScheduling | None = None


class Provider(Part):
    """Ray takes any key here, so a misspelt one would do nothing."""

    type: Literal["aws", "gcp"]
    region: str
    availability_zone: str
    use_internal_ips: Literal[True]
    project_id: str | None = None
    cache_stopped_nodes: bool | None = None


def check_launcher(values: Document) -> None:
    """A file for `ray up`, also after Ray's defaults have come in."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config({"cluster_synced_files": [], **values})
    validate_config(prepare_config(copy.deepcopy(values)))
    provider = Provider.model_validate(values["provider"])
    for node in values["available_node_types"].values():
        if provider.type == "aws":
            _check_ec2(node["node_config"])
        else:
            GcpInstance.model_validate(node["node_config"])


@functools.cache
def _run_instances() -> Any:
    import botocore.session

    service = botocore.session.get_session().get_service_model("ec2")
    return service.operation_model("RunInstances").input_shape


def _check_ec2(node_config: Document) -> None:
    from botocore.validate import ParamValidator

    asked = {"MinCount": 1, "MaxCount": 1, **node_config}
    report = ParamValidator().validate(asked, _run_instances())
    assert not report.has_errors(), report.generate_report()


# Anyscale, Argo


class AnyscaleHead(Part):
    instance_type: str


class AnyscaleWorkers(Part):
    name: str
    instance_type: str
    min_nodes: int
    max_nodes: int
    market_type: Literal["ON_DEMAND", "SPOT", "PREFER_SPOT"]


class AnyscaleCompute(Part):
    head_node: AnyscaleHead
    worker_nodes: list[AnyscaleWorkers]


class AnyscaleJob(Part):
    """Of `anyscale.job.models.JobConfig`, 0.26."""

    name: str
    image_uri: str
    entrypoint: str
    compute_config: AnyscaleCompute
    max_retries: int
    timeout_s: int
    tags: dict[str, str]


def _ray_job(text: str) -> str:
    check_object(documents_of(text)[0])
    return text


class ArgoResource(Part):
    action: Literal["create"]
    setOwnerReference: bool
    successCondition: str
    failureCondition: str
    manifest: Annotated[str, AfterValidator(_ray_job)]


class ArgoRetry(Part):
    limit: str
    retryPolicy: Literal["Always"]


class ArgoTemplate(Part):
    name: str
    retryStrategy: ArgoRetry
    resource: ArgoResource


class ArgoTtl(Part):
    secondsAfterCompletion: int


def _pod_security(context: Document) -> Document:
    container = {"name": "main", "image": "any", "resources": {}}
    _pod_template({"metadata": {}, "spec": {"containers": [container], "securityContext": context}})
    return context


class ArgoWorkflow(Part):
    entrypoint: str
    serviceAccountName: str
    activeDeadlineSeconds: int
    ttlStrategy: ArgoTtl
    securityContext: Annotated[Document, AfterValidator(_pod_security)]
    templates: list[ArgoTemplate]


class ArgoCronSpec(Part):
    schedules: list[str]
    timezone: str
    concurrencyPolicy: Literal["Allow", "Forbid", "Replace"]
    startingDeadlineSeconds: int
    successfulJobsHistoryLimit: int
    failedJobsHistoryLimit: int
    workflowSpec: ArgoWorkflow


class CronWorkflow(Part):
    """Of Argo Workflows 3.6 and later."""

    apiVersion: Literal["argoproj.io/v1alpha1"]
    kind: Literal["CronWorkflow"]
    metadata: Metadata
    spec: ArgoCronSpec


# Compose, Prometheus, Grafana


@functools.cache
def _compose_schema() -> Any:
    from jsonschema.validators import validator_for

    vendored = importlib.resources.files("check_jsonschema.builtin_schemas.vendor")
    schema = json.loads((vendored / "compose-spec.json").read_text())
    return validator_for(schema)(schema)


def check_compose(values: Document) -> None:
    """A compose file, by the specification's own schema."""
    _compose_schema().validate(values)


class DnsDiscovery(Part):
    names: list[str]
    type: Literal["A"]
    port: int
    refresh_interval: str


class ScrapeJob(Part):
    job_name: str
    dns_sd_configs: list[DnsDiscovery]


class PrometheusGlobal(Part):
    scrape_interval: str


class Prometheus(Part):
    global_: PrometheusGlobal = Field(alias="global")
    scrape_configs: list[ScrapeJob]


class Datasource(Part):
    name: str
    uid: str
    type: Literal["prometheus"]
    access: Literal["proxy"]
    url: str
    isDefault: bool


class Datasources(Part):
    apiVersion: Literal[1]
    datasources: list[Datasource]


class FolderOptions(Part):
    path: str


class DashboardProvider(Part):
    name: str
    type: Literal["file"]
    options: FolderOptions


class DashboardProviders(Part):
    apiVersion: Literal[1]
    providers: list[DashboardProvider]


CHECKS = {
    "ray/aws.yaml": check_launcher,
    "ray/gcp.yaml": check_launcher,
    "anyscale/job.yaml": AnyscaleJob.model_validate,
    "schedules/argo_cronworkflow.yaml": CronWorkflow.model_validate,
    "compose/compose.yaml": check_compose,
    "compose/prometheus.yaml": Prometheus.model_validate,
    "compose/grafana/datasources.yaml": Datasources.model_validate,
    "compose/grafana/dashboards.yaml": DashboardProviders.model_validate,
}
