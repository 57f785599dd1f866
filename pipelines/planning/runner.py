"""The runner of a job where the spec leaves it to us (``runner: auto``)."""

import os
from pathlib import Path
from typing import Protocol, Self, TypeVar

from stx.pipelines.planning.pool import available_cores, make_pool
from stx.pipelines.spec.parts import Resources

_GPUS = Path("/proc/driver/nvidia/gpus")


class _Spec(Protocol):
    """A job's spec, or any other model of pydantic with resources."""

    resources: Resources

    def model_copy(self, *, update: dict[str, object]) -> Self:
        """A copy with other values."""


Spec = TypeVar("Spec", bound=_Spec)


def with_runner(spec: Spec, n_units: int, n_rows: int) -> Spec:
    """The spec with `auto` replaced.

    To start Ray and its actors takes some ten seconds; it pays where several actors work.

    Args:
        spec: of the job.
        n_units: that are due.
        n_rows: in them.
    """
    resources = spec.resources
    if resources.runner != "auto":
        return spec
    is_local = on_this_machine(resources)
    if is_local and n_units > 1 and n_rows > resources.rows_per_unit:
        with_ray = resources.model_copy(update={"runner": "ray"})
        is_local = make_pool(with_ray, available_cores() + 1, 0).actors == 1
    update = {"runner": "local" if is_local else "ray"}
    return spec.model_copy(update={"resources": resources.model_copy(update=update)})


def on_this_machine(resources: Resources) -> bool:
    """True if Ray, where it is taken, would be started here, on CPUs, and nothing asks for it."""
    is_cluster = resources.actors or resources.gpus_per_actor or os.environ.get("RAY_ADDRESS")
    return not is_cluster and not _GPUS.is_dir()
