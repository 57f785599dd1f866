"""The actor of `rerank`: cross-encoders that score the pairs of a unit, whatever their queries."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from stx.pipelines.models.loading import in_float32, limit_threads, load_planned
from stx.pipelines.models.settings import HUB_ORGANISATION, RerankerSettings
from stx.pipelines.running import unit_table
from stx.pipelines.running.activity import part_of_unit, report
from stx_core.errors import ModelError

if TYPE_CHECKING:
    from stx_core.models.cross_encoder import CrossEncoder
    from stx_core.models.results import Scored

PAIR = pa.struct([("query", pa.string()), ("document", pa.string())])
"""Type of the text of a pair, column `unit_table.TEXT`; null where the row is rejected."""


class Scorer:
    """A cross-encoder with the settings of one reranker.

    Raises:
        ModelError: it cannot be loaded, its files changed, or it has several labels.
    """

    def __init__(
        self,
        settings: RerankerSettings,
        token_budget: int | None,
        memory_share: float,
        *,
        reproducible: bool = False,
    ) -> None:
        self.settings = settings
        model: CrossEncoder = load_planned(
            "CrossEncoder", settings, HUB_ORGANISATION["cross"], max_length=settings.max_seq_length
        )
        if model.num_labels != 1:
            raise ModelError(
                f"{settings.model}: scores {model.num_labels} labels per pair, and a ranking needs "
                "one; take a reranker with one label, or order by the label that you want with "
                "CrossEncoder.predict"
            )
        self.model = model
        self.model.reproducible = reproducible
        usual = token_budget or self.model.default_token_budget()
        self.token_budget = max(1, int(usual * memory_share))

    def score(self, pairs: list[tuple[str, str]]) -> "Scored":
        """Score pairs of any queries, in batches of like length.

        What is not finite in a half format is computed a second time, in float32.
        """
        scored = self._score(pairs)
        bad = [int(row) for row in np.flatnonzero(~np.isfinite(scored.scores))
               if row not in scored.failed]  # fmt: skip
        if bad and self.settings.dtype != "float32":
            with in_float32(self.model):
                again = self._score([pairs[row] for row in bad])
            scored.scores[bad] = again.scores
            scored.failed.update({bad[row]: reason for row, reason in again.failed.items()})
        return scored

    def _score(self, pairs: list[tuple[str, str]]) -> "Scored":
        return self.model.score(pairs, prompt=self.settings.prompt, token_budget=self.token_budget)


class Score:
    """Adds each due reranker's scores to the pairs of a unit: one pass, several models.

    Args:
        rerankers: settings by name.
        threads: cores this actor was given; None leaves the libraries' own choice.
        token_budget: tokens of one batch.
        reproducible: see `TextModel`.
        progress: called after each batch.
        memory_share: share of the token budget to use, where memory has run out before.
    """

    def __init__(
        self,
        rerankers: Mapping[str, RerankerSettings],
        threads: int | None,
        token_budget: int | None,
        reproducible: bool = False,
        progress: Callable[[], None] | None = None,
        memory_share: float = 1.0,
    ) -> None:
        if threads is not None:
            limit_threads(threads)
        self.scorers = {
            name: Scorer(settings, token_budget, memory_share, reproducible=reproducible)
            for name, settings in rerankers.items()
        }
        if progress is not None:
            for scorer in self.scorers.values():
                scorer.model.register_forward_hook(lambda *_: progress())

    def __call__(self, table: pa.Table) -> pa.Table:
        """Add ``<reranker>.score``, ``.n_tokens``, ``.truncated`` and ``.rejected`` columns."""
        notes = unit_table.notes(table)
        seconds = notes["seconds"]
        texts = table[unit_table.TEXT].combine_chunks()
        report(0.0, 0)
        n_tokens = 0
        for number, name in enumerate(notes["due"]):
            model = self.scorers[name].model
            n_before = model.tokens_run
            model.on_batch = part_of_unit(number, len(notes["due"]), n_tokens)
            with unit_table.timed(seconds, f"score.{name}"):
                columns = score_pairs(self.scorers[name], texts)
            n_tokens += model.tokens_run - n_before
            for column, values in columns.items():
                table = table.append_column(f"{name}.{column}", values)
        return unit_table.with_notes(table, seconds=seconds)


def score_pairs(scorer: Scorer, texts: pa.StructArray) -> dict[str, pa.Array]:
    """Score the pairs of a unit, equal ones once.

    Args:
        scorer: one reranker.
        texts: (N,) `PAIR`, null where there is nothing to score.

    Returns:
        Columns of N rows, null where the pair is: ``score``, ``n_tokens``, ``truncated``, and
        ``rejected`` for pairs that do not fit into memory or whose score is not finite.
    """
    query, document = (
        column.dictionary_encode() for column in (texts.field("query"), texts.field("document"))
    )
    rows = np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False))
    # Pairs as pairs of codes: the texts themselves are long, and each query is there many times.
    codes = np.stack(
        [part.indices.to_numpy(zero_copy_only=False)[rows].astype(np.int64)
         for part in (query, document)], axis=1
    )  # fmt: skip
    distinct, place = np.unique(codes, axis=0, return_inverse=True)
    queries, documents = query.dictionary.to_pylist(), document.dictionary.to_pylist()
    scored = scorer.score([(queries[i], documents[j]) for i, j in distinct.tolist()])
    reasons: list[tuple[str, str, str] | None] = [None] * len(distinct)
    for row in np.flatnonzero(~np.isfinite(scored.scores)).tolist():
        reasons[row] = ("not_finite", "text", "the model gave NaN or Inf, in float32 too")
    for row, detail in scored.failed.items():
        reasons[row] = ("out_of_memory", "text", detail)
    columns = {
        "score": pa.array(scored.scores, pa.float32()),
        "n_tokens": pa.array(scored.n_tokens, pa.int32()),
        "truncated": pa.array(scored.truncated),
        "rejected": unit_table.rejections(reasons),
    }
    choice = np.full(len(texts), -1, np.int64)
    choice[rows] = place.reshape(-1)
    at = pa.array(choice, mask=choice < 0)
    return {name: column.take(at) for name, column in columns.items()}
