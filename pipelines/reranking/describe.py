"""A rerank run in words: its plan, candidates and judged pairs that have no score."""

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.planning.plan import Plan
from stx.pipelines.planning.pool import Pool
from stx.pipelines.planning.words import counted
from stx.pipelines.reranking.candidates import DatasetSource
from stx.pipelines.reranking.task import RerankTask
from stx.pipelines.spec.retrieval import RerankSpec
from stx_core.evaluation.qrels import read_qrels
from stx_core.store.data_file import read_columns
from stx_core.store.files.urls import join, redact
from stx_core.store.log_state import OutputFacts


def plan_lines(spec: RerankSpec, task: RerankTask, plan: Plan, pool: Pool) -> Iterator[str]:
    """The plan.

    Args:
        spec: of the job.
        task: what is scored.
        plan: of the run.
        pool: the actors.
    """
    source = task.candidates.source
    version = ""
    if isinstance(source, DatasetSource):
        version = f", version {source.version}, {source.output}"
    yield f"plan for {plan.root}"
    yield f"  pairs    {source.path}{version}"
    depth = f"the first {spec.candidates.depth} per query of " if spec.candidates.depth else ""
    units = counted(len(plan.units), "unit")
    yield f"           {depth}{plan.n_rows:,} candidates in {units} of whole queries"
    for side, (_, corpus) in task.corpora.items():
        rows = sum(shard.n_rows for shard in corpus.shards)
        yield f"  {side:<9} {counted(rows, 'row')} in {counted(len(corpus.shards), 'file')}"
    for name, settings in task.rerankers.items():
        yield (
            f"  {name:<8} {redact(settings.model)} ({settings.dtype}), "
            f"{task.fingerprint(name)[:12]}"
        )
    yield f"  to do    {counted(plan.n_due, 'unit')}, {counted(plan.n_due_rows, 'candidate')}"
    yield f"  run on   {pool}"


def quarantined_candidates(
    root: str, records: pa.Table, outputs: Mapping[str, OutputFacts]
) -> Iterator[str]:
    """Candidates that are in no ranking, with an example."""
    for output, facts in outputs.items():
        if not (n_rows := facts["rows_quarantined"]):
            continue
        of_output = records.filter(pc.equal(records["output"], output))
        files = [name for name in of_output["quarantine_file"].to_pylist() if name]
        example = ""
        if files:
            row = read_columns(join(root, files[0]), ["id", "reason"]).slice(0, 1).to_pylist()[0]
            query, document = row["id"].split("\t", 1)
            example = f", such as query {query!r} and document {document!r} ({row['reason']})"
        yield f"{output}: {n_rows:,} candidates could not be scored{example}; see the quarantine"


def unscored_pairs(spec: RerankSpec, outputs: Mapping[str, OutputFacts]) -> Iterator[str]:
    """Judged pairs that were not scored."""
    if not spec.positives:
        return
    judged = read_qrels(spec.positives)
    pairs = judged.filter(pc.greater(judged["score"], 0)).group_by(["query_id", "doc_id"])
    n_pairs = len(pairs.aggregate([]))
    for output, facts in outputs.items():
        if facts["type"] == "positives" and facts["file_rows"] < n_pairs:
            yield (
                f"{output}: {n_pairs - facts['file_rows']:,} of {n_pairs:,} positive pairs of "
                f"{redact(spec.positives)} were not scored: the query has no candidates, or the "
                "query or document no text"
            )
