"""Several jobs, one after the other, from one spec file.

Each step is a job with its own spec and commits its own dataset, which later steps name by its
path. So a flow has no state: running it again does again only what is not there.
"""

from collections.abc import Callable, Iterator, Mapping
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
    resources: dict[str, Any] = {}
    """Of every step that does not say otherwise."""
    store: dict[str, Any] = {}
    alerts: dict[str, Any] = {}


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
    return [_step(number, step, flow, source) for number, step in enumerate(flow.steps, 1)]


def _step(number: int, step: Mapping[str, Any], flow: FlowSpec, source: str) -> Step:
    where = f"{source}: step {number}"
    if len(step) != 1 or not step.keys() <= JOBS.keys():
        raise SpecError(
            f"{where}: name one job, one of {', '.join(JOBS)}; it has {', '.join(step) or 'none'}"
        )
    ((job, values),) = step.items()
    if isinstance(values, str):
        where, values = values, read_values(values)
    kind = JOBS[job].spec_class()
    merged = dict(_with_shared(values, flow, kind))
    spec = parse_spec(merged, source=f"{where} ({job})", kind=kind)
    return Step(job, spec, JOBS[job].run_function())


def _with_shared(
    values: Mapping[str, Any], flow: FlowSpec, kind: type[Part]
) -> Iterator[tuple[str, Any]]:
    """Values of a step, with those of the flow where the step says nothing."""
    yield from ((name, value) for name, value in values.items() if name not in _SHARED)
    for name in _SHARED:
        own = values.get(name, {})
        if name in kind.model_fields and isinstance(own, dict):
            yield name, getattr(flow, name) | own
        elif name in values:
            yield name, own  # for the spec to refuse
