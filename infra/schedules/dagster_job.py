"""Dagster: the snapshot as an asset, encoded every night on a standing RayCluster.

Needs dagster-ray, and in the environment of Dagster's runs RAY_ADDRESS (http://HEAD-SERVICE:8265),
RAY_AUTH_MODE=token and RAY_AUTH_TOKEN; the network policy must let them reach that port.
"""

import dagster as dg
from dagster_ray import PipesRayJobClient


@dg.asset(retry_policy=dg.RetryPolicy(max_retries=2, delay=300))
def embeddings(
    context: dg.AssetExecutionContext, ray_jobs: PipesRayJobClient
) -> dg.MaterializeResult:
    """The current snapshot; a retry takes up what the attempt before has finished."""
    done = ray_jobs.run(
        context=context,
        submit_job_params={"entrypoint": "stx encode /etc/stx/encode.yaml --deadline 11h"},
    )
    return done.get_materialize_result()


nightly = dg.define_asset_job("stx_encode", selection=[embeddings])

definitions = dg.Definitions(
    assets=[embeddings],
    schedules=[dg.ScheduleDefinition(job=nightly, cron_schedule="17 2 * * *")],
    resources={"ray_jobs": PipesRayJobClient()},
)
