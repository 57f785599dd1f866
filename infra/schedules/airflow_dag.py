"""Airflow 3: a spec encoded every night on the standing RayCluster of infra/k8s/overlays/dev.

Needs apache-airflow-providers-cncf-kubernetes, and an Airflow that may start pods in the cluster's
namespace. The pod's exit code is that of stx on the cluster; its log is the job's log.
"""

from datetime import datetime, timedelta

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.secret import Secret
from airflow.sdk import DAG
from kubernetes.client import models as k8s

NAMESPACE = "stx-dev"

with DAG(
    dag_id="stx_encode",
    schedule="17 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    # A retry takes up what the attempt before has finished.
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
) as dag:
    KubernetesPodOperator(
        task_id="encode",
        namespace=NAMESPACE,
        image="registry.example.com/stx:0.1.0-cpu",
        # Where the job of an earlier attempt is still at work, this attaches to it.
        cmds=["stx", "submit", "/etc/stx/encode.yaml", "--set", "resources.deadline=11h"],
        volumes=[
            k8s.V1Volume(name="spec", config_map=k8s.V1ConfigMapVolumeSource(name="stx-spec"))
        ],
        volume_mounts=[k8s.V1VolumeMount(name="spec", mount_path="/etc/stx", read_only=True)],
        env_vars={"RAY_ADDRESS": "http://stx-head-svc:8265", "RAY_AUTH_MODE": "token"},
        secrets=[Secret("env", "RAY_AUTH_TOKEN", secret="stx", key="auth_token")],
        # The network policy lets pods of this label reach the job API.
        labels={"app.kubernetes.io/component": "submitter"},
        automount_service_account_token=False,
        security_context=k8s.V1PodSecurityContext(
            run_as_non_root=True,
            run_as_user=1000,
            seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        ),
        container_security_context=k8s.V1SecurityContext(
            allow_privilege_escalation=False,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
        ),
        container_resources=k8s.V1ResourceRequirements(
            requests={"cpu": "500m", "memory": "1Gi"}, limits={"cpu": "500m", "memory": "1Gi"}
        ),
        # GPUs or a node for the pod may take their time to come.
        startup_timeout_seconds=1800,
        reattach_on_restart=True,
    )
