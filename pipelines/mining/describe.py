"""A mine run in words: its plan, and notes about its result."""

from collections.abc import Iterator, Mapping

import numpy as np

from stx.pipelines.mining.plan import Mining
from stx.pipelines.mining.rows import positive_pairs
from stx.pipelines.planning.plan import Plan
from stx.pipelines.planning.pool import Pool
from stx.pipelines.retrieval.query_spans import Spans, query_hashes
from stx.pipelines.spec.retrieval import MineSpec
from stx_core.store.files.urls import redact


def plan_lines(spec: MineSpec, mining: Mining, plan: Plan, pool: Pool) -> Iterator[str]:
    """The plan.

    Args:
        spec: of the job.
        mining: what is read.
        plan: of the run.
        pool: the actors.
    """
    yield f"plan for {plan.root}"
    for name, ranking in mining.rankings.items():
        rows = sum(file.rows for file in ranking.files)
        depth = "" if ranking.depth is None else f", the best {ranking.depth} of each query"
        yield (
            f"  {name:<8} {redact(ranking.path)}, version {ranking.version}, output "
            f"{ranking.output}: {rows:,} candidates{depth}"
        )
    yield f"  judge    {spec.judging}; positives {redact(spec.positives)}"
    changed = spec.rules.model_dump(exclude_defaults=True)
    rules = {"num_negatives": spec.rules.num_negatives} | changed
    yield f"  rules    {', '.join(f'{name} {value}' for name, value in rules.items())}"
    yield f"  outputs  {', '.join(plan.parts)}"
    yield f"  to do    {len(plan.due):,} of {len(plan.units):,} units of whole queries"
    yield f"  run on   {pool}"


def notes(spec: MineSpec, mining: Mining, spans: Mapping[str, Spans]) -> Iterator[str]:
    """Notes of rows that were left out, and of checks that were not made.

    Args:
        spec: of the job.
        mining: what is read.
        spans: of the queries, by ranking.
    """
    if not spec.rules.to_core().needs_texts:
        yield (
            "rules.same_content is off: a copy of a positive under another id may be among the "
            "negatives; name queries and documents, and set it to true"
        )
    pairs, n_repeated = positive_pairs(spec.positives)
    where = redact(spec.positives)
    if n_repeated:
        yield (
            f"{n_repeated:,} positive pairs of {where} stand there more than once; each counts once"
        )
    first, *further = mining.rankings
    judged = query_hashes(pairs["query_id"].unique())
    if lost := int((~np.isin(judged, spans[first].query)).sum()):
        yield (
            f"{lost:,} of {len(judged):,} queries of {where} have no candidates in {first}; they "
            "were left out"
        )
    for name in further:
        if lost := int((~np.isin(np.unique(spans[name].query), spans[first].query)).sum()):
            yield (
                f"{lost:,} queries of {name} have no candidates in {first}, the first ranking; "
                "they were left out"
            )
