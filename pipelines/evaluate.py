"""Measures of a ranking against judgements, and of another ranking beside it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import Field

from stx.pipelines.engine.runs import View
from stx.pipelines.spec.parts import Part, Store
from stx_core.evaluation.comparison import compare
from stx_core.evaluation.measures import DEFAULT_MEASURES, evaluate
from stx_core.evaluation.qrels import read_qrels
from stx_core.evaluation.rankings import is_dataset, read_rankings
from stx_core.evaluation.report import comparison_to_markdown, depth_note, to_json, to_markdown
from stx_core.store.files.filesystem import write_over
from stx_core.store.files.s3 import use_options
from stx_core.store.files.urls import redact


@dataclass(frozen=True)
class Evaluated:
    """Result of `stx evaluate`.

    Attributes:
        markdown: measures and counts, for people.
        values: the same and the values of every query, for programs.
    """

    markdown: str
    values: dict[str, Any]

    def write(self, json_url: str | None, markdown_url: str | None) -> None:
        """Write files, in place of what was there."""
        if json_url is not None:
            text = json.dumps(self.values, indent=1, ensure_ascii=False) + "\n"
            write_over(json_url, text.encode())
        if markdown_url is not None:
            write_over(markdown_url, self.markdown.encode())


def run_evaluate(
    ranking: str,
    qrels: str,
    *,
    measures: Sequence[str] = DEFAULT_MEASURES,
    against: str | None = None,
    output: str | None = None,
    formats: tuple[str | None, str | None] = (None, None),
) -> Evaluated:
    """Evaluate a ranking, and compare it with another.

    Args:
        ranking: a dataset of stx, or files; see `stx_core.evaluation.rankings`.
        qrels: judgements; see `stx_core.evaluation.qrels`.
        measures: see `stx_core.evaluation.measures`.
        against: another ranking.
        output: of the datasets, where they have several.
        formats: of the files of both rankings, and of the judgements; None to derive.
    """
    judged = read_qrels(qrels, formats[1])
    first = evaluate(read_rankings(ranking, formats[0], output), judged, measures)
    names = {"ranking": redact(ranking), "qrels": redact(qrels)}
    values = names | to_json(first) | {"depth": first.depth}
    if against is None:
        return Evaluated(to_markdown(first) + depth_note(first), values)
    # A dataset may be compared with a file, which has no outputs.
    output = output if is_dataset(against) else None
    second = evaluate(read_rankings(against, formats[0], output), judged, measures)
    differences = compare(first, second)
    values["against"] = {"ranking": redact(against)} | to_json(second) | {"depth": second.depth}
    values["differences"] = [asdict(difference) for difference in differences]
    notes = depth_note(first) + depth_note(second, "against")
    return Evaluated(comparison_to_markdown(first, second, differences) + notes, values)


class EvaluateSpec(Part):
    """An ``evaluate`` step of a flow; the arguments of `run_evaluate`."""

    ranking: str
    """Dataset that `stx retrieve` or `stx rerank` wrote, or a file with a ranking."""
    qrels: str
    """File with judged pairs."""
    measures: tuple[str, ...] = Field(default=DEFAULT_MEASURES, min_length=1)
    """By the names of ir_measures."""
    against: str | None = None
    """Ranking to compare with, pair by pair; null: none."""
    output: str | None = None
    """Which ranking of the dataset."""
    format: str | None = None
    """Of the ranking's file; null: told by its name and content."""
    qrels_format: str | None = None
    """Of the file of judged pairs; null: likewise."""
    json_file: str | None = None
    """File for all values, those of each query too."""
    markdown: str | None = None
    """File for the table."""
    store: Store = Store()
    """How `s3://` is reached."""


def run_evaluate_spec(spec: EvaluateSpec, view: View | None = None) -> Evaluated:  # noqa: ARG001
    """Evaluate, and write the files that the spec names."""
    use_options(spec.store.options())
    evaluated = run_evaluate(
        spec.ranking,
        spec.qrels,
        measures=spec.measures,
        against=spec.against,
        output=spec.output,
        formats=(spec.format, spec.qrels_format),
    )
    evaluated.write(spec.json_file, spec.markdown)
    return evaluated
