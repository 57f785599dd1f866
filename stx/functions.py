"""The functions of `stx`, see there."""

import os
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from stx.calling import Source, run_spec, to_spec

if TYPE_CHECKING:
    from stx.pipelines.evaluate import Evaluated
    from stx.pipelines.telemetry.report import Report
    from stx.snapshot import Snapshot


def encode(spec: Source | None = None, /, **keys: Any) -> "Report":  # noqa: ANN401
    """Encode a corpus into a new snapshot; what is done already is not done again.

    Args:
        spec: a YAML file, a dictionary, or a `stx.pipelines.spec.encode.EncodeSpec`.
        **keys: of the spec: ``inputs``, ``models``, ``output`` …; and ``dry_run=True`` to plan
            only, ``view`` to watch (a `stx.pipelines.engine.runs.View`), ``allow_code=True`` to run
            what ``inputs.map`` names: the place of a function, or the function itself.

    Returns:
        The report: ``version``, ``committed``, and rows by output in ``parts``.

    Raises:
        SpecError: the spec is wrong.
        RunActive: another start of the same run is at work.
        Stopped: a limit of ``resources`` was reached; call again to go on.
        QualityRefused: a check of the spec refuses what was encoded; it is kept.
        StxError: the input, a model or the store does not allow it. Finished units are kept.
    """
    report: Report = run_spec("encode", spec, keys)
    return report


def retrieve(spec: Source | None = None, /, **keys: Any) -> "Report":  # noqa: ANN401
    """Find the best documents of every query, exactly; commit the rankings as a snapshot.

    Args:
        spec: as `encode`, of the class `stx.pipelines.spec.retrieval.RetrieveSpec`.
        **keys: of the spec: ``queries``, ``corpus``, ``k``, ``output`` …; others as `encode`.

    Raises:
        StxError: as `encode`.
    """
    report: Report = run_spec("retrieve", spec, keys)
    return report


def rerank(spec: Source | None = None, /, **keys: Any) -> "Report":  # noqa: ANN401
    """Score candidates by cross-encoders; commit the new rankings as a snapshot.

    Args:
        spec: as `encode`, of the class `stx.pipelines.spec.retrieval.RerankSpec`.
        **keys: of the spec: ``candidates``, ``queries``, ``documents``, ``rerankers``, ``output``
            …; others as `encode`.

    Raises:
        StxError: as `encode`.
    """
    report: Report = run_spec("rerank", spec, keys)
    return report


def mine(spec: Source | None = None, /, **keys: Any) -> "Report":  # noqa: ANN401
    """Find hard negatives in committed rankings; commit them with training rows as a snapshot.

    Args:
        spec: as `encode`, of the class `stx.pipelines.spec.retrieval.MineSpec`.
        **keys: of the spec: ``candidates``, ``positives``, ``formats``, ``output`` …; others as
            `encode`.

    Raises:
        StxError: as `encode`.
    """
    report: Report = run_spec("mine", spec, keys)
    return report


def sample(spec: Source | None = None, /, **keys: Any) -> "Report":  # noqa: ANN401
    """Commit some rows of a dataset, chosen by chance, as a snapshot.

    Args:
        spec: as `encode`, of the class `stx.pipelines.spec.sample.SampleSpec`.
        **keys: of the spec: ``sampled``, ``rows``, ``by``, ``output`` …; others as `encode`.

    Raises:
        StxError: as `encode`.
    """
    report: Report = run_spec("sample", spec, keys)
    return report


def evaluate(spec: Source | None = None, /, **keys: Any) -> "Evaluated":  # noqa: ANN401
    """Measure how well a ranking agrees with judgements.

    Args:
        spec: as `encode`, of the class `stx.pipelines.evaluate.EvaluateSpec`.
        **keys: of the spec: ``ranking``, ``qrels``, ``measures``, ``against`` …

    Returns:
        Its ``markdown`` is a table; its ``values`` has all of it, the values of queries too.

    Raises:
        StxError: the spec is wrong, or a file or dataset cannot be read.
    """
    evaluated: Evaluated = run_spec("evaluate", spec, keys)
    return evaluated


def run(flow: Source, /, *, allow_code: bool = False) -> "list[Report | Evaluated]":
    """Run the steps of a flow, one after the other; their reports.

    Args:
        flow: a YAML file with ``steps``, a dictionary, or a `stx.pipelines.flow.FlowSpec`.
        allow_code: run what ``inputs.map`` of a step names.

    Raises:
        StxError: as `encode`. Finished steps stay finished.
    """
    from stx.pipelines.flow import FlowSpec, read_steps
    from stx.pipelines.spec.code import refuse_code

    steps = read_steps(to_spec(FlowSpec, flow, {}))
    for step in steps:
        if not allow_code:
            refuse_code(step.spec, step.job, "allow_code=True")
    return [step.run(step.spec) for step in steps]


def export(
    path: "str | PathLike[str]",
    destination: "str | PathLike[str]",
    format: str,
    *,
    output: str | None = None,
    **options: Any,  # noqa: ANN401
) -> int:
    """Write one output of a dataset in the form of another tool, or into it.

    Args:
        path: the dataset.
        destination: file, folder, URL, or URL/COLLECTION of an engine.
        format: ``jsonl``, ``parquet``, ``huggingface``, ``qdrant`` …: `docs/export.md`.
        output: which one; needed when there are several.
        **options: of the form: ``columns``, ``name``, ``recipe`` …

    Returns:
        How many rows were written.

    Raises:
        StxError: an option is wrong, the dataset holds what the form cannot, or a store fails.
    """
    from stx.pipelines.export import run_export

    path = os.path.expanduser(path)
    return run_export(path, fspath(destination), format, output=output, **options)


def open(
    path: "str | PathLike[str]", *, version: int | None = None, output: str | None = None
) -> "Snapshot":
    """Open a version of a dataset that stx wrote.

    Args:
        path: the dataset.
        version: None for the current one. What is opened stays this version, whatever is committed
            meanwhile.
        output: which one; needed, to read rows, when there are several.

    Raises:
        SpecError: there is no such output.
        StoreError: there is no snapshot, or not this version.
    """
    from stx.snapshot import Snapshot

    return Snapshot.at(path, version, output)
