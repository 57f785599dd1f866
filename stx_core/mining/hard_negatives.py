"""`mine_hard_negatives`: a dataset of pairs and a model in, a dataset with hard negatives out."""

import dataclasses
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from stx_core.errors import InputError, SpecError
from stx_core.mining.coded import Coded
from stx_core.mining.embed import Embeddings, cache_file, process_pool
from stx_core.mining.formats import labeled_lists, labeled_pairs, n_tuples, triplets
from stx_core.mining.judge import judge, reasons
from stx_core.mining.nearest import Candidates, Space, flat, narrow_k, search, widened
from stx_core.mining.negatives import hard_negatives
from stx_core.mining.pairs import Pairs, read_pairs
from stx_core.mining.rules import Against, MiningRules, Sampling
from stx_core.mining.summary import summary_lines
from stx_core.mining.texts import Texts
from stx_core.mining.texts import flat as flatten
from stx_core.store.digests import blake2b

logger = logging.getLogger(__name__)

Format = Literal["triplet", "n-tuple", "labeled-pair", "labeled-list"]


def mine_hard_negatives(
    dataset: Any,  # noqa: ANN401  (a datasets.Dataset, which is optional here)
    model: Any,  # noqa: ANN401  (anything with encode_query and encode_document)
    anchor_column_name: str | None = None,
    positive_column_name: str | None = None,
    corpus: Sequence[str] | None = None,
    cross_encoder: Any | None = None,  # noqa: ANN401  (anything with predict)
    range_min: int = 0,
    range_max: int | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    num_negatives: int = 3,
    sampling_strategy: Sampling = "top",
    query_prompt_name: str | None = None,
    query_prompt: str | None = None,
    corpus_prompt_name: str | None = None,
    corpus_prompt: str | None = None,
    include_positives: bool = False,
    output_format: Format | Literal["n-tuple-scores"] = "triplet",
    output_scores: bool = False,
    batch_size: int = 32,
    faiss_batch_size: int = 16384,
    use_faiss: bool = False,
    use_multi_process: list[str] | bool = False,
    verbose: bool = True,
    cache_folder: str | Path | None = None,
    as_triplets: bool | None = None,
    margin: float | None = None,
    *,
    positive_share: float | None = None,
    margin_against: Against = "min",
    seed: int = 0,
    same_content: bool = False,
    near_duplicate: float | None = None,
) -> Any:  # noqa: ANN401  (a datasets.Dataset)
    """Find for each (anchor, positive) of a dataset texts that are alike but no positives.

    Parameters, defaults and result are those of Sentence Transformers 6.2, except that random
    sampling depends on `seed` and the anchor instead of a global generator, that a column name
    that does not exist is an error, and that what it prints is logged (`stx_core.mining`, INFO).
    Texts, the embeddings of the anchors and a block of the documents' are in memory; the others
    wait in the cache folder or in a temporary file, so TMPDIR needs room for them. For several
    machines there is the mine job.

    Args:
        dataset: a `datasets.Dataset`; rows with the same anchor are one query with more positives.
        model: encodes anchors by `encode_query` and documents by `encode_document`.
        anchor_column_name: the first column unless given.
        positive_column_name: the second column unless given.
        corpus: where to mine, besides the positives; equal texts count once.
        cross_encoder: scores candidates and positives anew, all pairs in one call of `predict`;
            only asked if a rule on scores is set.
        range_min: see `MiningRules`, as for the other rules.
        range_max: derived from num_negatives, range_min and the most positives of a query.
        max_score: see `MiningRules`.
        min_score: see `MiningRules`.
        absolute_margin: see `MiningRules`.
        relative_margin: see `MiningRules`.
        num_negatives: how many to find for each query.
        sampling_strategy: "top" or "random".
        query_prompt_name: a prompt of the model, for anchors.
        query_prompt: the prompt itself.
        corpus_prompt_name: a prompt of the model, for documents.
        corpus_prompt: the prompt itself.
        include_positives: let positives be found, too; makes n-tuples.
        output_format: "triplet", "n-tuple", "labeled-pair" or "labeled-list".
        output_scores: add the scores, or give them in place of the labels.
        batch_size: texts per batch of the models.
        faiss_batch_size: queries searched at once; it does not change the result.
        use_faiss: changes nothing: the search is exact, and needs no faiss.
        use_multi_process: for models that start processes themselves (True, or their devices); a
            warning with others.
        verbose: show progress, and log statistics.
        cache_folder: keeps embeddings in files named by weights, prompt and texts.
        as_triplets: old name for output_format "triplet" (True) or "n-tuple" (False).
        margin: old name for absolute_margin.
        positive_share: see `MiningRules`.
        margin_against: see `MiningRules`.
        seed: see `MiningRules`.
        same_content: see `MiningRules`.
        near_duplicate: see `MiningRules`.

    Returns:
        A `datasets.Dataset`, see `stx_core.mining.formats`.

    Raises:
        InputError: the dataset or corpus cannot be used.
        SpecError: rules that cannot be meant.
    """
    layout, output_scores = _layout(output_format, output_scores, as_triplets, include_positives)
    if faiss_batch_size < 1:
        raise SpecError(f"faiss_batch_size must be at least 1, got {faiss_batch_size}")
    pairs = read_pairs(dataset, anchor_column_name, positive_column_name, corpus)
    rules = _with_range(
        MiningRules(
            num_negatives=num_negatives,
            range_min=range_min,
            range_max=range_max,
            max_score=max_score,
            min_score=min_score,
            absolute_margin=absolute_margin if margin is None else margin,
            relative_margin=relative_margin,
            sampling_strategy=sampling_strategy,
            include_positives=include_positives,
            positive_share=positive_share,
            margin_against=margin_against,
            seed=seed,
            same_content=same_content,
            near_duplicate=near_duplicate,
        ),
        pairs.max_positives,
        cross_encoder is not None,
    )
    rescored = cross_encoder is not None and rules.needs_scores
    # Room for the positives, which are among the best and fall out again.
    k = min((rules.range_max or 0) + pairs.max_positives, len(pairs.documents))
    narrow = k if rescored else narrow_k(rules, k)
    space = Space(
        str(getattr(model, "similarity_fn_name", None) or "cosine"),
        getattr(model, "device", "cpu"),
        faiss_batch_size,
    )
    with (
        process_pool(model, use_multi_process) as pool,
        tempfile.TemporaryDirectory(prefix="stx-mining-") as scratch,
    ):
        options = {
            "batch_size": batch_size,
            "normalize_embeddings": True,
            "convert_to_numpy": True,
            "show_progress_bar": verbose,
            **pool,
        }
        anchor_prompt = {"prompt_name": query_prompt_name, "prompt": query_prompt}
        queries = Embeddings(
            lambda texts: model.encode_query(texts, **anchor_prompt, **options),
            pairs.queries,
            cache_file(cache_folder, "query", model, anchor_prompt, pairs.queries),
        )
        document_prompt = {"prompt_name": corpus_prompt_name, "prompt": corpus_prompt}
        documents = Embeddings(
            lambda texts: model.encode_document(texts, **document_prompt, **options),
            pairs.documents,
            cache_file(cache_folder, "corpus", model, document_prompt, pairs.documents)
            or (Path(scratch, "corpus.npy") if narrow < k else None),
        )
        candidates = _search(
            queries.whole(), documents, pairs, rules=rules, space=space, widths=(narrow, k)
        )
    if rescored:
        with process_pool(cross_encoder, use_multi_process) as pool:
            options = {"batch_size": batch_size, "show_progress_bar": verbose, **pool}
            candidates = _rescored(candidates, pairs, cross_encoder, options)
    return _mined(
        candidates, pairs, rules, layout=layout, output_scores=output_scores, verbose=verbose
    )


def _layout(
    output_format: str, output_scores: bool, as_triplets: bool | None, include_positives: bool
) -> tuple[str, bool]:
    if as_triplets is not None:
        output_format = "triplet" if as_triplets else "n-tuple"
        logger.warning("as_triplets is deprecated: use output_format=%r", output_format)
    if output_format == "n-tuple-scores":
        logger.warning("n-tuple-scores is deprecated: use n-tuple with output_scores=True")
        output_format, output_scores = "n-tuple", True
    if output_format not in get_args(Format):
        raise SpecError(
            f"output_format must be one of {', '.join(get_args(Format))}, got {output_format!r}"
        )
    if include_positives and output_format != "n-tuple":
        logger.warning("include_positives makes n-tuples, which keep the order of the ranking")
        output_format = "n-tuple"
    return output_format, output_scores


def _with_range(rules: MiningRules, max_positives: int, rescored: bool) -> MiningRules:
    """Derive range_max as the reference does; rules of our own widen it like a margin."""
    if rules.range_max is not None:
        return rules
    only_min_score = (
        rules.needs_scores and not dataclasses.replace(rules, min_score=None).needs_scores
    )
    rejects = (rules.needs_scores and (rescored or not only_min_score)) or rules.needs_texts
    width = rules.num_negatives * (10 if rejects else 1) + max_positives
    logger.info("range_max is %d, from the other settings", rules.range_min + width)
    return dataclasses.replace(rules, range_max=rules.range_min + width)


def _search(
    queries: np.ndarray,
    documents: Embeddings,
    pairs: Pairs,
    *,
    rules: MiningRules,
    space: Space,
    widths: tuple[int, int],
) -> Candidates:
    """The window that the rules allow, or as much of it as matters; `widths` of either."""
    narrow, k = widths
    candidates = flat(*search(queries, documents, pairs, space, narrow))
    if narrow == k:
        return candidates
    coded = Coded(
        query_C=candidates.query,
        document_C=candidates.document,
        rank_C=candidates.rank.astype(np.int64),
        score_C=candidates.score,
        query_P=pairs.query_P,
        document_P=pairs.document_P,
        score_P=candidates.positive_score,
        query_ids=pa.array(np.arange(len(pairs.queries))),
        document_ids=pa.array(np.arange(len(pairs.documents))),
    )
    chosen = candidates.query[reasons(coded, rules) < 0]
    # Queries with fewer negatives than they should have.
    lacking = np.bincount(chosen, minlength=len(pairs.queries)) < rules.num_negatives
    if not lacking.any():
        return candidates
    logger.info("%d queries need more than %d candidates", lacking.sum(), narrow)
    return widened(candidates, lacking, queries, documents=documents, space=space, k=k)


def _rescored(
    candidates: Candidates,
    pairs: Pairs,
    cross_encoder: Any,  # noqa: ANN401  (see mine_hard_negatives)
    options: dict[str, Any],
) -> Candidates:
    """Replace all scores by the cross-encoder's; it reads each pair once, in one flat call."""
    query = np.concatenate([pairs.query_P, candidates.query])
    document = np.concatenate([pairs.document_P, candidates.document])
    keys, place = np.unique(query * len(pairs.documents) + document, return_inverse=True)
    sides = (side.tolist() for side in np.divmod(keys, len(pairs.documents)))
    texts = [(pairs.queries[i], pairs.documents[j]) for i, j in zip(*sides, strict=True)]
    scores = np.asarray(cross_encoder.predict(texts, **options), np.float32)
    if scores.shape != (len(texts),):
        raise InputError(
            f"the cross-encoder gives {scores.shape[1:]} scores a pair, mining needs one; "
            "use a model with one label"
        )
    if np.isnan(scores).any():
        first = texts[int(np.isnan(scores).argmax())]
        raise InputError(f"the cross-encoder gives no score (NaN) for the pair {first!r:.200}")
    n = len(pairs.query_P)
    return dataclasses.replace(
        candidates, positive_score=scores[place[:n]], score=scores[place[n:]]
    )


def _mined(
    nearest: Candidates,
    pairs: Pairs,
    rules: MiningRules,
    *,
    layout: str,
    output_scores: bool,
    verbose: bool,
) -> Any:  # noqa: ANN401  (a datasets.Dataset)
    try:
        from datasets import Dataset
    except ImportError as error:
        raise SpecError("mine_hard_negatives needs `datasets`: pip install 'stx[hf]'") from error

    ids = pa.array(np.arange(len(pairs.queries)))
    if rules.sampling_strategy == "random":
        # A query's sample is not to depend on others, which a row number does.
        texts = (text.encode("utf-8", "surrogatepass") for text in pairs.queries)
        ids = pa.array(blake2b(text).hex() for text in texts)
    positives = pa.table(
        {
            "query_id": ids.take(pa.array(pairs.query_P)),
            "doc_id": pairs.document_P,
            "score": nearest.positive_score,
        }
    )
    candidates = pa.table(
        {
            "query_id": ids.take(pa.array(nearest.query)),
            "doc_id": nearest.document,
            "rank": nearest.rank,
            "score": nearest.score,
        }
    )
    queries = pa.table({"query_id": ids, "text": pairs.queries})
    documents = _documents(pairs, nearest.document) if rules.needs_texts else None
    judged = judge(candidates, positives, rules, documents=documents, queries=queries)
    negatives = hard_negatives(judged, positives)
    if documents is None:
        documents = _documents(pairs, flatten(negatives["negative_ids"])[1].to_numpy())
    table = _laid_out(
        negatives,
        Texts(queries, documents),
        rules,
        layout=layout,
        scores=output_scores,
        pairs=pairs,
    )
    if verbose:
        for line in summary_lines(
            judged, negatives, rules, layout=layout, n_rows=len(table), pairs=pairs
        ):
            logger.info("%s", line)
    return Dataset(table)


def _laid_out(
    negatives: pa.Table,
    texts: Texts,
    rules: MiningRules,
    *,
    layout: str,
    scores: bool,
    pairs: Pairs,
) -> pa.Table:
    if layout == "n-tuple":
        return n_tuples(
            negatives,
            texts,
            rules.num_negatives,
            scores=scores,
            anchor=pairs.anchor,
            positive=pairs.positive,
        )
    make = {"triplet": triplets, "labeled-pair": labeled_pairs, "labeled-list": labeled_lists}
    return make[layout](
        negatives, texts, scores=scores, anchor=pairs.anchor, positive=pairs.positive
    )


def _documents(pairs: Pairs, rows: np.ndarray) -> pa.Table:
    """The texts of these documents and of all positives."""
    used = np.unique(np.concatenate([rows, pairs.document_P]))
    return pa.table({"doc_id": used, "text": [pairs.documents[row] for row in used.tolist()]})
