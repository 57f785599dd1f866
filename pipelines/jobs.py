"""The table of jobs: all that the command line, flows, `stx submit` and the page of specs know.

Nothing of a job is imported before it is asked for. Jobs of plug-ins follow those of the table, see
docs/extending.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, cast

from stx_core.plugins import Registry, load

if TYPE_CHECKING:
    from stx.pipelines.spec.parts import Part

FLOW, FLOW_KEY = "run", "steps"
"""The command of a flow, and the key that only its spec has."""


@dataclass(frozen=True)
class JobEntry:
    """One job; what it is made of stands here as ``module:name``.

    Attributes:
        spec: class of its specs.
        run: function that does it: ``run(spec, view)``, with ``dry_run`` where it has a command.
        key: top-level key of its specs by which `stx submit` knows them: specs of the jobs below
            have it not, nor, where a plug-in adds the job, those of stx. None: it has no command
            that takes a spec, and is a step of flows only.
        help: of the command that is made for it; the first sentence stands in `stx --help`.
        command: function of its command instead, where that has options of its own.
    """

    spec: str
    run: str
    key: str | None = None
    help: str | None = None
    command: str | None = None

    def spec_class(self) -> "type[Part]":
        """Class of its specs, imported now."""
        return cast("type[Part]", _resolved(self.spec))

    def run_function(self) -> Callable[..., Any]:
        """Function that does it, imported now."""
        return cast("Callable[..., Any]", _resolved(self.run))

    def command_function(self) -> Callable[..., None] | None:
        """Function of its command where that has options of its own, imported now."""
        if self.command is None:
            return None
        return cast("Callable[..., None]", _resolved(self.command))


def _resolved(place: str) -> object:
    """What a place names; SpecError where code of a plug-in cannot be imported."""
    return resolve_name(place) if place.startswith("stx.") else load(place, "job")


JOBS: Registry[JobEntry] = Registry(
    "stx.jobs",
    "job",
    {
        "encode": JobEntry(
            spec="stx.pipelines.spec.encode:EncodeSpec",
            run="stx.pipelines.encode:run_encode",
            key="models",
            command="stx.jobs.encode:encode",
        ),
        "retrieve": JobEntry(
            spec="stx.pipelines.spec.retrieval:RetrieveSpec",
            run="stx.pipelines.retrieve:run_retrieve",
            key="corpus",
            help="Find the best documents of every query, exactly; commit the rankings as a "
            "snapshot.",
        ),
        "rerank": JobEntry(
            spec="stx.pipelines.spec.retrieval:RerankSpec",
            run="stx.pipelines.rerank:run_rerank",
            key="rerankers",
            help="Score candidates by cross-encoders; commit the new rankings as a snapshot.",
        ),
        "mine": JobEntry(
            spec="stx.pipelines.spec.retrieval:MineSpec",
            run="stx.pipelines.mine:run_mine",
            key="candidates",
            help="Find hard negatives in committed rankings; commit them with training rows as a "
            "snapshot.",
        ),
        "sample": JobEntry(
            spec="stx.pipelines.spec.sample:SampleSpec",
            run="stx.pipelines.sample:run_sample",
            key="sampled",
            help="Commit some rows of a dataset, chosen by chance, as a snapshot.",
        ),
        "evaluate": JobEntry(
            spec="stx.pipelines.evaluate:EvaluateSpec",
            run="stx.pipelines.evaluate:run_evaluate_spec",
        ),
    },
    expected=JobEntry,
    reserved=(FLOW, "flow"),
)
"""By name, in the order of `stx --help`: the name of its command, of its step in flows, and in what
runs tell: lineage, metrics, alerts."""


def job_of(values: Mapping[str, Any]) -> str | None:
    """The job that the keys of a spec are of: a name of the table, ``run`` for a flow, or None."""
    if FLOW_KEY in values:
        return FLOW
    usable = (name for name in JOBS if JOBS.problem(name) is None)
    return next((name for name in usable if JOBS[name].key in values), None)


def with_commands() -> dict[str, JobEntry]:
    """Jobs with a command that takes a spec, by name."""
    return {name: job for name, job in JOBS.usable().items() if job.key is not None}


def command_names() -> list[str]:
    """Names of `with_commands`, without importing plug-ins: all of theirs count."""
    table = JOBS.table
    return [name for name in JOBS if name not in table or JOBS[name].key is not None]
