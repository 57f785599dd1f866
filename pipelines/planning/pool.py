"""The actors of a run: derived from what the cluster has, or as the spec asks."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from stx.pipelines.planning.words import counted
from stx.pipelines.spec.parts import Resources

# Cores of one CPU actor: matrix work of small encoders stops scaling beyond, and several actors
# tokenise and copy side by side.
_CORES_PER_ACTOR = 2

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Pool:
    """The actors that encode, and those that tokenise for them, with as many cores each.

    See `StageSpec` for `min_actors`, `custom` and `stall_timeout_s`.
    """

    runner: str
    actors: int
    cpus: int
    gpus: float
    token_budget: int | None
    stall_timeout_s: float | None = None
    reproducible: bool = False
    tokenizers: int = 0
    min_actors: int | None = None
    custom: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        budget = "" if self.token_budget is None else f", {self.token_budget:,} tokens per batch"
        if self.runner == "local":
            return f"this process: {counted(self.cpus, 'core')}{budget}"
        gpus = f" + {self.gpus:g} GPU" if self.gpus else ""
        custom = "".join(f" + {amount:g} {name}" for name, amount in self.custom.items())
        more = f"; {self.tokenizers} x {self.cpus} cores tokenise" if self.tokenizers else ""
        least = "" if self.min_actors is None else f"{self.min_actors} to "
        size = f"{counted(self.cpus, 'core')}{gpus}{custom}"
        return f"ray: {least}{counted(self.actors, 'actor')} x {size}{budget}{more}"


def make_pool(resources: Resources, cpus: float, gpus: float) -> Pool:
    """Derive the actor pool from what the cluster has; what the spec sets is taken as it is.

    Args:
        resources: the spec's part.
        cpus: CPUs of the cluster; with those of nodes that may join, where Ray knows of them.
        gpus: GPUs of the cluster, likewise.
    """
    pool = Pool(
        runner=resources.runner,
        actors=1,
        cpus=resources.cpus_per_actor or available_cores(),
        gpus=0,
        token_budget=resources.token_budget,
        stall_timeout_s=resources.stall_timeout_s if resources.supervised else None,
        reproducible=resources.reproducible,
        tokenizers=resources.tokenizers or 0,
    )
    if resources.runner == "local":
        return pool
    per_actor_gpus = resources.gpus_per_actor
    if per_actor_gpus is None:
        per_actor_gpus = 1.0 if gpus else 0.0
    free = int(cpus) - 1  # one is for readers and writers
    # A plain number is no range.
    actors = resources.actors
    least, most = actors if isinstance(actors, tuple) else (None, actors)
    # Nothing has joined that a range could be derived from.
    usual = _CORES_PER_ACTOR if least and free < 1 else max(1, min(_CORES_PER_ACTOR, free))
    per_actor_cpus = resources.cpus_per_actor or usual
    by_cpu = free // per_actor_cpus
    by_gpu = int(gpus // per_actor_gpus) if per_actor_gpus else by_cpu
    return replace(
        pool,
        runner="ray",
        actors=most or max(1, min(by_cpu, by_gpu)),
        cpus=per_actor_cpus,
        gpus=per_actor_gpus,
        min_actors=least,
        custom=resources.custom,
    )


def available_cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its container."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = _CGROUP_QUOTA.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
