"""Several jobs, one after the other, from one spec file.

Each step is a job with its own spec and commits its own dataset, which later steps name by its
path. So a flow has no state: running it again does again only what is not there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from stx.pipelines.jobs import JOBS
from stx.pipelines.spec.file import parse_spec, read_values
from stx.pipelines.spec.parts import Part
from stx_core.errors import SpecError

_SHARED = ("resources", "store", "alerts")


class FlowSpec(Part):
    """Steps, each ``job: spec`` or ``job: file with the spec``; and what they all share."""

    steps: tuple[dict[str, str | dict[str, Any]], ...] = Field(min_length=1)
    """In their order; each is read before the first one runs."""
    resources: dict[str, Any] = {}
    """Of every step that does not say otherwise."""
    store: dict[str, Any] = {}
    """Likewise."""
    alerts: dict[str, Any] = {}
    """Likewise."""


@dataclass(frozen=True)
class Step:
    """One job of a flow.

    Attributes:
        job: its name, as the command has it.
        spec: what it shall do.
        run: does it.
    """

    job: str
    spec: Part
    run: Callable[..., Any]


def read_steps(flow: FlowSpec, source: str = "flow") -> list[Step]:
    """The steps of a flow, all of them validated before the first one runs.

    Raises:
        SpecError: a step names no job, or its spec is not valid.
    """
    steps = []
    for number, step in enumerate(flow.steps, start=1):
        where = f"{source}: step {number}"
        if len(step) != 1 or not step.keys() <= JOBS.keys():
            raise SpecError(
                f"{where}: name one job, one of {', '.join(JOBS)}; it has "
                f"{', '.join(step) or 'none'}"
            )
        ((job, values),) = step.items()
        if isinstance(values, str):
            where, values = values, read_values(values)
        kind = JOBS[job].spec_class()
        # What the flow says holds where the step says nothing.
        merged = dict(values)
        for name in _SHARED:
            own = values.get(name, {})
            if name in kind.model_fields and isinstance(own, dict):
                merged[name] = getattr(flow, name) | own
        spec = parse_spec(merged, source=f"{where} ({job})", kind=kind)
        steps.append(Step(job, spec, JOBS[job].run_function()))
    return steps
