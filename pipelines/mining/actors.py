"""The actors of a mine run."""

from stx.pipelines.engine.job import stage_on
from stx.pipelines.mining.stage import Miner, MineStage
from stx.pipelines.planning.pool import Pool
from stx.pipelines.running import stream
from stx.pipelines.spec.parts import Resources
from stx.pipelines.spec.retrieval import MineSpec

# Of a unit's CPU time; reading, hashing ids and writing Parquet have the rest.
_RULES_SHARE = 0.25


def mine_stages(miner: Miner, pool: Pool) -> list[stream.StageSpec]:
    """The actors that judge candidates."""
    settings = {"miner": miner, "threads": pool.cpus if pool.runner == "ray" else None}
    return [stage_on(pool, MineStage, settings, gpus=0)]


def few_actors(spec: MineSpec, cpus: float) -> Resources:
    """Actors of one core each: few, because readers and writers have more to do than the rules.

    Near duplicates are the exception: comparing texts takes longer than all else.
    """
    share = 1.0 if spec.rules.near_duplicate is not None else _RULES_SHARE
    resources = spec.resources
    actors = resources.actors or max(1, int((cpus - 1) * share))
    cpus_per_actor = resources.cpus_per_actor or 1
    values = {"actors": actors, "cpus_per_actor": cpus_per_actor, "gpus_per_actor": 0.0}
    return resources.model_copy(update=values)
