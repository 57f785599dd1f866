"""What models compute in where a spec leaves it to us (``dtype: auto``)."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from stx.pipelines.models.settings import EncoderSettings, RerankerSettings, fingerprint
from stx.pipelines.planning.dataset_state import current_outputs, was_begun
from stx.pipelines.planning.pool import available_cores, make_pool
from stx.pipelines.planning.runner import on_this_machine
from stx.pipelines.running import cluster
from stx.pipelines.spec.parts import Resources
from stx_core.machine import cpu_class

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
    before = current_outputs(root)
    known = {name: one.dtype for name, one in settings.items()}
    for name, one in settings.items():
        if one.dtype == AUTO:
            known[name] = _as_before(one, before.get(name)) or AUTO
    if AUTO not in known.values():
        return _with(settings, known, AUTO)
    for dtype in ("bfloat16", "float32"):
        begun = _with(settings, known, dtype)
        if run_hash and was_begun(root, run_hash(begun)):
            return begun
    return _with(settings, known, _fast_here(resources))


def _with(
    settings: Mapping[str, Settings], known: Mapping[str, str], dtype: str
) -> dict[str, Settings]:
    """Settings in the dtypes that are known, the others in this one."""
    return {
        name: replace(one, dtype=dtype if known[name] == AUTO else known[name])
        for name, one in settings.items()
    }


def _as_before(settings: Settings, facts: Mapping[str, Any] | None) -> str | None:
    """The dtype of an output that differs in nothing else."""
    if facts is None or facts.get("settings", {}).keys() != settings.as_dict().keys():
        return None
    before = replace(settings, **facts["settings"])
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
