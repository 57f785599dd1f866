"""The dtype of models where a spec leaves it to us (``dtype: auto``)."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import TypeVar

from stx.pipelines.models.settings import EncoderSettings, RerankerSettings, fingerprint
from stx.pipelines.planning.pool import available_cores, make_pool
from stx.pipelines.planning.runner import on_this_machine
from stx.pipelines.running import cluster
from stx.pipelines.spec.parts import Resources
from stx_core.machine import cpu_class
from stx_core.store import log
from stx_core.store.log_state import unfinished_run

AUTO = "auto"

Settings = TypeVar("Settings", EncoderSettings, RerankerSettings)


def settled(
    settings: Mapping[str, Settings],
    root: str,
    resources: Resources,
    run_hash: Callable[[Mapping[str, Settings]], str] | None = None,
) -> dict[str, Settings]:
    """Replace ``auto``: by what the current snapshot was written in, else by what is fast here.

    A dataset, and a run that was interrupted, keep their dtype, whatever machine the next
    start is on: another one would mean to compute all of it again.

    Args:
        settings: of models, by output.
        root: the dataset.
        resources: the spec's part.
        run_hash: of a run with such settings, to find an unfinished one; None where there is none
            to be found.
    """
    entry = log.latest(root)
    snapshot = entry.state["snapshot"] if entry else None
    outputs = snapshot["outputs"] if snapshot else {}
    dtypes = {name: model.dtype for name, model in settings.items()}
    for name, model in settings.items():
        stored = outputs.get(name, {}).get("settings", {})
        # An output that differs in nothing else keeps its dtype.
        if model.dtype == AUTO and stored.keys() == asdict(model).keys():
            before = replace(model, **stored)
            if fingerprint(replace(before, dtype=AUTO)) == fingerprint(model):
                dtypes[name] = before.dtype
    choices = {
        dtype: {
            name: replace(model, dtype=dtype if dtypes[name] == AUTO else dtypes[name])
            for name, model in settings.items()
        }
        for dtype in ("bfloat16", "float32")
    }
    if AUTO not in dtypes.values():
        return choices["float32"]  # both are the same
    for begun in choices.values():
        if entry and run_hash and unfinished_run(entry.state, run_hash(begun)):
            return begun
    return choices[_fast_dtype(resources)]


def _fast_dtype(resources: Resources) -> str:
    """The dtype that the actors' hardware has units for; CPUs are taken to be like this one."""
    if resources.runner != "auto" or not on_this_machine(resources):
        cpus, gpus = cluster.cluster_size(resources.runner, available_cores())
        if make_pool(resources, cpus, gpus).gpus:
            return "bfloat16" if cluster.gpus_have_bfloat16() else "float32"
    return "bfloat16" if cpu_class() != "other" else "float32"
