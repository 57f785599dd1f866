"""The actor of `mine`: from candidates and positives of whole queries to all of their outputs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.mining.formats import makers, needs_texts
from stx.pipelines.mining.rows import LeftOut
from stx.pipelines.retrieval.text_lookup import TextSource, fetch_texts
from stx.pipelines.running.unit_table import to_bytes
from stx.pipelines.spec.retrieval import MiningFormat
from stx_core.mining.judge import judge
from stx_core.mining.negatives import hard_negatives
from stx_core.mining.rules import MiningRules
from stx_core.mining.shortage import shortfall
from stx_core.mining.statistics import MiningCounts
from stx_core.mining.texts import Texts, flat

CANDIDATES, POSITIVES, NEGATIVES = "candidates", "positives", "negatives"
SHORTFALL, STATISTICS = "shortfall", "statistics"

STATISTICS_SCHEMA = pa.schema(
    [
        pa.field("queries", pa.int64()),
        # See `rows.LeftOut`.
        pa.field("queries_without_positive", pa.int64()),
        pa.field("queries_without_score", pa.int64()),
        pa.field("positives_without_score", pa.int64()),
        pa.field("counts", pa.string()),  # JSON, see MiningCounts
    ]
)
"""One row per unit, so that a report covers units of all starts and versions."""


@dataclass(frozen=True)
class Miner:
    """Rules and formats: all that decides the rows that are written.

    Attributes:
        rules: what a hard negative is.
        formats: training rows to make.
        scores: see `makers`.
        queries: texts of queries; None if none are needed.
        documents: texts of documents; likewise.
    """

    rules: MiningRules
    formats: Sequence[MiningFormat]
    scores: bool
    queries: TextSource | None
    documents: TextSource | None


class MineStage:
    """Makes the outputs of a unit: a row of packed tables in, one of packed outputs out.

    Args:
        miner: as a dictionary: `Miner`.
        threads: cores that this actor was given; the work is done by one.
    """

    def __init__(self, miner: Miner, threads: int | None) -> None:
        if threads is not None:
            pa.set_cpu_count(max(1, threads))
        self.miner = miner

    def __call__(self, table: pa.Table) -> pa.Table:
        """Replace candidates, positives and statistics by all outputs."""
        tables = unpack(table)
        (left_out,) = tables[STATISTICS].to_pylist()
        outputs = mine_rows(
            tables[CANDIDATES], tables[POSITIVES], LeftOut(**left_out), miner=self.miner
        )
        return pack(outputs).replace_schema_metadata(table.schema.metadata)


def pack(tables: Mapping[str, pa.Table]) -> pa.Table:
    """Several tables as one row, for the stream of units."""
    # large_binary: tables of texts pass the 2 GiB of plain binary.
    kind = pa.large_binary()
    return pa.table(
        {name: pa.array([to_bytes(table).to_pybytes()], kind) for name, table in tables.items()}
    )


def unpack(row: pa.Table) -> dict[str, pa.Table]:
    """The tables that `pack` packed."""
    return {
        name: pa.ipc.open_stream(row[name].chunk(0)[0].as_buffer()).read_all()
        for name in row.column_names
    }


def mine_rows(
    candidates: pa.Table, positives: pa.Table, left_out: LeftOut, *, miner: Miner
) -> dict[str, pa.Table]:
    """All outputs of some queries.

    Args:
        candidates: query_id, doc_id, rank, score (null where the judge gave none) and others; all
            of queries that have positives.
        positives: query_id, doc_id and score.
        left_out: for the statistics.
        miner: what is wanted.

    Raises:
        InputError: see `judge`.
    """
    rules = miner.rules
    texts = None
    if rules.needs_texts:
        ids = pa.chunked_array([*candidates["doc_id"].chunks, *positives["doc_id"].chunks])
        texts = _texts(miner, positives["query_id"], ids)
    judged = _judged(candidates, positives, rules, texts)
    negatives = hard_negatives(judged, positives)
    statistics = {
        "queries": len(negatives),
        "counts": json.dumps(MiningCounts.of(judged, negatives, rules.num_negatives).to_json()),
        **asdict(left_out),
    }
    outputs = {
        CANDIDATES: judged,
        NEGATIVES: negatives,
        SHORTFALL: shortfall(judged, positives, rules.num_negatives),
        STATISTICS: pa.Table.from_pylist([statistics], STATISTICS_SCHEMA),
    }
    make = makers(rules.num_negatives, scores=miner.scores)
    if texts is None and any(map(needs_texts, miner.formats)):
        lists = [flat(negatives[name])[1].chunks for name in ("positive_ids", "negative_ids")]
        ids = pa.chunked_array(sum(lists, []), candidates["doc_id"].type)
        texts = _texts(miner, positives["query_id"], ids)
    if texts is None:
        # None of the formats holds texts.
        no_ids = pa.chunked_array([], candidates["doc_id"].type)
        texts = _texts(miner, positives["query_id"].slice(0, 0), no_ids)
    return outputs | {name: make[name](negatives, texts) for name in miner.formats}


def _texts(miner: Miner, query_ids: pa.ChunkedArray, doc_ids: pa.ChunkedArray) -> Texts:
    """Id and text of each distinct id that has one; without a source none has."""
    tables = []
    for source, name, ids in (
        (miner.queries, "query_id", query_ids.unique()),
        (miner.documents, "doc_id", doc_ids.unique()),
    ):
        texts = pa.nulls(len(ids), pa.string())
        if source is not None and len(ids):
            texts = fetch_texts(source, ids)
        table = pa.table({name: ids, "text": texts})
        tables.append(table.filter(pc.is_valid(table["text"])))
    queries, documents = tables
    return Texts(queries, documents)


def _judged(
    candidates: pa.Table, positives: pa.Table, rules: MiningRules, texts: Texts | None
) -> pa.Table:
    """Reasons of all candidates; the rules see those that have a score."""
    has_score = candidates["score"].is_valid()
    scored = candidates.filter(has_score)
    documents, queries = (texts.documents, texts.queries) if texts else (None, None)
    judged = judge(scored, positives, rules, documents=documents, queries=queries)
    if len(scored) == len(candidates):
        return judged
    unscored = candidates.filter(pc.invert(has_score))
    reasons, negative = (pa.repeat(value, len(unscored)) for value in ("unscored", False))
    rejected = unscored.append_column("reason", reasons).append_column("negative", negative)
    # Back to the order of the candidates.
    mask = has_score.to_numpy()
    places = np.concatenate([np.flatnonzero(mask), np.flatnonzero(~mask)])
    both = pa.concat_tables([judged, rejected.cast(judged.schema)])
    return both.take(pa.array(np.argsort(places)))


def schemas(miner: Miner, candidates: pa.Schema) -> dict[str, pa.Schema]:
    """Schemas of the files of all outputs, for candidates of a schema."""
    nothing = candidates.empty_table()
    positives = nothing.select(["query_id", "doc_id", "score"])
    bare = Miner(miner.rules, miner.formats, miner.scores, None, None)
    outputs = mine_rows(nothing, positives, LeftOut(), miner=bare)
    return {name: table.schema for name, table in outputs.items()}
