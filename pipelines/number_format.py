"""What models compute in where a spec leaves it to us (``dtype: auto``)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pipelines import cluster
from pipelines.plan import available_cores, fingerprint, make_pool
from pipelines.runner import on_this_machine
from pipelines.scorers import RerankerSettings
from pipelines.spec import Resources
from pipelines.stages import EncoderSettings
from stx_core.inference.machine import cpu_class

AUTO = "auto"

Settings = TypeVar("Settings", EncoderSettings, RerankerSettings)


def settled(
    settings: Mapping[str, Settings],
    held: Mapping[str, Mapping[str, Any]],
    resources: Resources,
) -> dict[str, Settings]:
    """Replace ``auto``: by what the current snapshot was written in, else by what is fast here.

    A dataset keeps its number format, whatever machine the next run is on: another one would mean
    to compute all of it again.

    Args:
        settings: of models, by output.
        held: what the current snapshot says of its outputs.
        resources: the spec's part.
    """
    found = dict(settings)
    for name, one in settings.items():
        if one.dtype == AUTO:
            dtype = _as_before(one, held.get(name)) or _fast_here(resources)
            found[name] = replace(one, dtype=dtype)
    return found


def _as_before(settings: Settings, held: Mapping[str, Any] | None) -> str | None:
    """The number format of an output that differs in nothing else."""
    if held is None or held.get("settings", {}).keys() != settings.as_dict().keys():
        return None
    before = replace(settings, **held["settings"])
    same = fingerprint(replace(before, dtype=AUTO)) == fingerprint(settings)
    return before.dtype if same else None


def _fast_here(resources: Resources) -> str:
    """What the actors' hardware has units for; they are taken to be like this machine's."""
    if resources.runner == "auto" and on_this_machine(resources):
        return _fast_on_cpu()
    cpus, gpus = cluster.cluster_size(resources.runner, available_cores())
    if make_pool(resources, cpus, gpus).gpus:
        return "bfloat16" if cluster.gpus_have_bfloat16() else "float32"
    return _fast_on_cpu()


def _fast_on_cpu() -> str:
    return "bfloat16" if cpu_class() != "other" else "float32"
