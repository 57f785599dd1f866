#!/bin/sh
# Makes a RayJob of the RayCronJob named $1, with its labels, and waits for it; fails if it fails.
set -eu

labels=$(kubectl get raycronjob "$1" -o jsonpath='{.metadata.labels}')
[ -n "$labels" ] || labels={}
spec=$(kubectl get raycronjob "$1" -o jsonpath='{.spec.jobTemplate}')
job=$(kubectl create -o name -f - <<EOF
{
  "apiVersion": "ray.io/v1",
  "kind": "RayJob",
  "metadata": {"generateName": "$1-", "labels": $labels},
  "spec": $spec
}
EOF
)
echo "created $job"

while :; do
  state=$(kubectl get "$job" -o jsonpath='{.status.jobDeploymentStatus}')
  case $state in
    Complete) echo "$job: complete"; exit 0 ;;
    Failed) kubectl get "$job" -o jsonpath='{.status.message}{"\n"}'; exit 1 ;;
  esac
  sleep "${POLL_S:-30}"
done
