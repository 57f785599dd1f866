import dataclasses
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stx_core.errors import InputError, SpecError
from stx_core.mining.combine import combine_rankings
from stx_core.mining.judge import judge
from stx_core.mining.near_duplicates import jaccard
from stx_core.mining.rules import REASONS, MiningRules


def table(**columns):
    names = {"q": "query_id", "d": "doc_id"}
    return pa.table({names.get(name, name): values for name, values in columns.items()})


def candidates(*rows):
    """Rows of (query, document, score), ranked as they stand."""
    ranks, seen = [], {}
    for query, _, _ in rows:
        seen[query] = seen.get(query, 0) + 1
        ranks.append(seen[query])
    return table(
        q=[row[0] for row in rows],
        d=[row[1] for row in rows],
        rank=pa.array(ranks, pa.int32()),
        score=pa.array([row[2] for row in rows], pa.float32()),
    )


def positives(*rows):
    return table(
        q=[row[0] for row in rows],
        d=[row[1] for row in rows],
        score=pa.array([row[2] for row in rows], pa.float32()),
    )


def texts(column, **values):
    return pa.table({column: list(values), "text": list(values.values())})


ONE_POSITIVE = positives(("q", "p", 0.8))
SCORES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
SIX = candidates(*(("q", f"d{i}", score) for i, score in enumerate(SCORES)))


def reasons(rules, rows=SIX, known=ONE_POSITIVE, **tables):
    return judge(rows, known, rules, **tables)["reason"].to_pylist()


# --- Rules, one by one -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"num_negatives": 2}, [None, None, *["not_sampled"] * 4]),
        ({"range_min": 2}, ["before_range"] * 2 + [None] * 3 + ["not_sampled"]),
        ({"range_max": 4}, [None] * 3 + ["not_sampled"] + ["after_range"] * 2),
        ({"max_score": 0.8}, ["max_score"] + [None] * 3 + ["not_sampled"] * 2),
        ({"min_score": 0.8}, [None] * 2 + ["min_score"] * 4),
        ({"absolute_margin": 0.0}, ["absolute_margin"] + [None] * 3 + ["not_sampled"] * 2),
        ({"absolute_margin": 0.15}, ["absolute_margin"] * 3 + [None] * 3),
        ({"relative_margin": 0.2}, ["relative_margin"] * 3 + [None] * 3),
        ({"positive_share": 0.8}, ["positive_share"] * 3 + [None] * 3),
    ],
)
def test_each_rule_gives_its_reason_and_equality_survives(rules, expected):
    assert reasons(MiningRules(**rules)) == expected


def test_the_range_counts_what_the_other_rules_let_pass():
    rules = MiningRules(num_negatives=1, range_min=1, range_max=2, max_score=0.75)

    expected = ["max_score", "max_score", "before_range", None, "after_range", "after_range"]
    assert reasons(rules) == expected


def test_positives_are_no_negatives_unless_they_may_be():
    rows = candidates(("q", "p", 0.8), ("q", "d", 0.5))

    assert reasons(MiningRules(), rows) == ["positive", None]
    assert reasons(MiningRules(include_positives=True), rows) == [None, None]


def test_a_positive_of_another_query_is_a_candidate():
    rows = candidates(("q", "p2", 0.8), ("q", "d", 0.5))
    known = positives(("q2", "p2", 0.9), ("q", "p", 0.8))

    assert reasons(MiningRules(), rows, known) == [None, None]


@pytest.mark.parametrize(
    ("against", "kept"), [("min", {"c"}), ("mean", {"b", "c"}), ("max", {"a", "b", "c"})]
)
def test_margins_hold_against_the_lowest_mean_or_highest_positive(against, kept):
    known = positives(("q", "p1", 0.4), ("q", "p2", 0.8))
    rows = candidates(("q", "a", 0.7), ("q", "b", 0.5), ("q", "c", 0.3))
    rules = MiningRules(absolute_margin=0.0, margin_against=against)

    judged = judge(rows, known, rules)

    assert set(judged.filter(judged["negative"])["doc_id"].to_pylist()) == kept


@pytest.mark.parametrize(
    "margin", [{"relative_margin": 0.1}, {"positive_share": 0.9}, {"absolute_margin": 0.2}]
)
def test_margins_of_negative_scores_still_ask_for_lower_ones(margin):
    rows = candidates(("q", "above", -1.9), ("q", "equal", -2.0), ("q", "below", -2.3))
    known = positives(("q", "p", -2.0))
    name = next(iter(margin))

    assert reasons(MiningRules(**margin), rows, known) == [name, name, None]


def test_texts_of_positives_and_of_the_query_are_no_negatives():
    rows = candidates(("q", "copy", 0.7), ("q", "echo", 0.6), ("q", "other", 0.5))
    documents = texts("doc_id", p="A b", copy=" a  B ", echo="The query", other="no")
    queries = texts("query_id", q="the query")
    rules = MiningRules(same_content=True)

    found = reasons(rules, rows, documents=documents, queries=queries)
    without_queries = reasons(rules, rows, documents=documents)

    assert found == ["same_content", "same_content", None]
    assert without_queries == ["same_content", None, None]


def test_content_hashes_do_in_place_of_texts():
    rows = candidates(("q", "copy", 0.7), ("q", "other", 0.5))
    documents = pa.table({"doc_id": ["p", "copy", "other"], "content_hash": [b"1", b"1", b"2"]})

    found = reasons(MiningRules(same_content=True), rows, documents=documents)

    assert found == ["same_content", None]


def test_of_equal_candidates_the_best_that_passes_is_kept():
    rows = candidates(("q", "a", 0.9), ("q", "b", 0.6), ("q", "c", 0.5), ("r", "c", 0.5))
    known = positives(("q", "p", 0.8), ("r", "p", 0.8))
    documents = texts("doc_id", p="p", a="same", b="same", c="same")
    rules = MiningRules(same_content=True, max_score=0.8)

    assert reasons(rules, rows, known, documents=documents) == [
        "max_score",
        None,
        "repeated_content",
        None,
    ]


def test_near_duplicates_of_positives_and_of_the_query_are_no_negatives():
    story = "the quick brown fox jumps over the lazy dog near the river bank in the morning"
    question = "where does the quick brown fox jump, and over whom, and when does it do so?"
    rows = candidates(("q", "near", 0.7), ("q", "asks", 0.6), ("q", "other", 0.5))
    documents = texts(
        "doc_id", p=story, near=story + "!", asks=question.upper(), other="something else " * 5
    )
    rules = MiningRules(near_duplicate=0.8)

    found = reasons(rules, rows, documents=documents, queries=texts("query_id", q=question))

    assert found == ["near_duplicate", "near_duplicate", None]


def test_a_positive_that_may_pass_is_no_duplicate_of_itself():
    rows = candidates(("q", "p", 0.8), ("q", "d", 0.5))
    documents = texts("doc_id", p="a positive text", d="a different one")
    rules = MiningRules(include_positives=True, same_content=True, near_duplicate=0.9)

    assert reasons(rules, rows, documents=documents) == [None, None]


def test_the_query_itself_as_document_can_be_left_out():
    rows = candidates(("q", "q", 1.0), ("q", "d", 0.5))

    assert reasons(MiningRules(same_id=True), rows) == ["same_id", None]


def test_the_score_column_can_be_another_judge():
    rows = SIX.append_column("teacher", pa.array([1.0, 2, 3, 4, 5, 6], pa.float32()))
    known = ONE_POSITIVE.append_column("teacher", pa.array([9.0], pa.float32()))

    judged = judge(rows, known, MiningRules(num_negatives=1), score="teacher")

    assert judged.filter(judged["negative"])["doc_id"].to_pylist() == ["d5"]


# --- Near duplicates -------------------------------------------------------------------------


def likeness(left, right):
    one, other = (
        {text[i : i + 8] for i in range(max(len(text) - 7, 1))}
        for text in (" ".join(text.lower().split()).encode() for text in (left, right))
    )
    return len(one & other) / len(one | other)


@given(st.lists(st.tuples(*[st.text("ab é\n", max_size=30)] * 2), max_size=8))
def test_jaccard_is_the_share_of_common_byte_sequences(pairs):
    left, right = ([pair[i] for pair in pairs] for i in (0, 1))

    found = jaccard(
        pa.chunked_array([left], pa.large_string()), pa.chunked_array([right], pa.large_string())
    )

    # White space alone is an empty text here as there.
    np.testing.assert_allclose(found, [likeness(*pair) for pair in pairs])


# --- Sampling --------------------------------------------------------------------------------

LONG = candidates(*((f"q{query}", f"d{i}", 1 - i / 50) for query in range(30) for i in range(50)))
LONG_POSITIVES = positives(*((f"q{query}", "p", 1.0) for query in range(30)))


def chosen(rows, known, rules):
    judged = judge(rows, known, rules)
    kept = judged.filter(judged["negative"]).to_pylist()
    return sorted((row["query_id"], row["doc_id"]) for row in kept)


def test_random_samples_do_not_depend_on_order_or_on_other_queries():
    rules = MiningRules(num_negatives=4, range_min=5, range_max=40, sampling_strategy="random")
    shuffled = LONG.take(np.random.default_rng(0).permutation(len(LONG)))
    blocks = [chosen(LONG.slice(50 * i, 50), LONG_POSITIVES.slice(i, 1), rules) for i in range(30)]

    whole = chosen(LONG, LONG_POSITIVES, rules)

    assert chosen(shuffled, LONG_POSITIVES, rules) == whole
    assert sorted(row for block in blocks for row in block) == whole


def test_random_samples_come_from_all_of_the_range_and_change_with_the_seed():
    samples = [
        chosen(
            LONG,
            LONG_POSITIVES,
            MiningRules(
                num_negatives=4, range_min=5, range_max=40, sampling_strategy="random", seed=seed
            ),
        )
        for seed in range(40)
    ]

    places = np.bincount([int(doc[1:]) for sample in samples for _, doc in sample], minlength=50)

    assert len({tuple(sample) for sample in samples}) == 40
    assert all(len(sample) == 30 * 4 for sample in samples)
    assert places[:5].sum() == places[40:].sum() == 0
    # 4800 draws over 35 places: 137 each, standard deviation 11.
    assert places[5:40].min() > 80
    assert places[5:40].max() < 200


# --- All rules together, against a slow and obvious miner ------------------------------------


def slow_judge(rows, known, rules):  # noqa: C901  (obvious, not short)
    """By query and candidate, in plain Python; scores are float32 throughout."""
    f = np.float32
    found = {}
    for query in {row["query_id"] for row in rows}:
        own = {row["doc_id"]: f(row["score"]) for row in known if row["query_id"] == query}
        bar = {"min": min, "max": max, "mean": lambda s: f(np.mean(list(map(float, s))))}[
            rules.margin_against
        ](own.values())
        ranked = sorted(
            (row for row in rows if row["query_id"] == query),
            key=lambda row: (-row["score"], row["rank"]),
        )
        passing = []
        for row in ranked:
            score, reason = f(row["score"]), None
            if row["doc_id"] in own and not rules.include_positives:
                reason = "positive"
            elif rules.absolute_margin is not None and score + f(rules.absolute_margin) > bar:
                reason = "absolute_margin"
            elif rules.relative_margin is not None and score > bar - abs(bar) * f(
                rules.relative_margin
            ):
                reason = "relative_margin"
            elif rules.positive_share is not None and score > bar - abs(bar) * f(
                1 - rules.positive_share
            ):
                reason = "positive_share"
            elif rules.max_score is not None and score > f(rules.max_score):
                reason = "max_score"
            elif rules.min_score is not None and score < f(rules.min_score):
                reason = "min_score"
            else:
                passing.append(row)
            found[query, row["doc_id"]] = reason
        for place, row in enumerate(passing):
            if place < rules.range_min:
                found[query, row["doc_id"]] = "before_range"
            elif rules.range_max is not None and place >= rules.range_max:
                found[query, row["doc_id"]] = "after_range"
            elif place >= rules.range_min + rules.num_negatives:
                found[query, row["doc_id"]] = "not_sampled"
    return found


# Few different scores, of either sign, so that equal ones are common.
some_score = st.integers(-6, 6).map(lambda value: value / 4)
maybe = st.none() | some_score


@st.composite
def any_rules(draw):
    num_negatives, range_min = draw(st.integers(1, 4)), draw(st.integers(0, 3))
    extra = draw(st.none() | st.integers(0, 4))
    return MiningRules(
        num_negatives=num_negatives,
        range_min=range_min,
        range_max=None if extra is None else range_min + num_negatives + extra,
        max_score=draw(maybe),
        min_score=draw(maybe),
        absolute_margin=draw(maybe),
        relative_margin=draw(maybe),
        positive_share=draw(st.sampled_from([None, 0.5, 0.95, 1.0])),
        margin_against=draw(st.sampled_from(["min", "mean", "max"])),
        include_positives=draw(st.booleans()),
    )


@st.composite
def any_mining(draw):
    rows, known = [], []
    for query in range(draw(st.integers(1, 4))):
        documents = draw(st.lists(st.integers(0, 15), unique=True, max_size=12))
        own = draw(st.lists(st.integers(0, 15), unique=True, min_size=1, max_size=3))
        rows += [(query, document, draw(some_score)) for document in documents]
        known += [(query, document, draw(some_score)) for document in own]
    return rows, draw(st.permutations(known)), draw(any_rules())


@settings(max_examples=200, deadline=None)
@given(any_mining(), st.randoms(use_true_random=False))
def test_judging_equals_a_slow_and_obvious_miner(mining, shuffle: random.Random):
    rows, known, rules = mining
    numbered = candidates(*rows)
    numbered = numbered.set_column(0, "query_id", numbered["query_id"].cast(pa.int64()))
    numbered = numbered.set_column(1, "doc_id", numbered["doc_id"].cast(pa.int64()))
    order = list(range(len(rows)))
    shuffle.shuffle(order)
    numbered = numbered.take(pa.array(order, pa.int64()))
    expected = slow_judge(numbered.to_pylist(), positives(*known).to_pylist(), rules)

    judged = judge(numbered, positives(*known), rules)

    found = {(row["query_id"], row["doc_id"]): row["reason"] for row in judged.to_pylist()}
    assert found == expected
    assert judged.select(numbered.column_names).equals(numbered)
    assert [not reason for reason in judged["reason"].to_pylist()] == judged["negative"].to_pylist()


def test_new_rules_judge_a_judged_table_again():
    first = judge(SIX, ONE_POSITIVE, MiningRules(max_score=0.55))

    again = judge(first, ONE_POSITIVE, MiningRules())

    assert again.equals(judge(SIX, ONE_POSITIVE, MiningRules()))


def test_reasons_are_a_closed_list_and_each_is_a_rule_or_a_place():
    fields = {field.name for field in dataclasses.fields(MiningRules)}
    others = {
        "positive", "unscored", "repeated_content", "before_range", "after_range", "not_sampled",
    }  # fmt: skip

    assert set(REASONS) - fields == others
    assert len(set(REASONS)) == len(REASONS)


# --- What cannot be judged -------------------------------------------------------------------

GOOD = candidates(("q", "d", 0.5))


def with_column(rows, name, values):
    return rows.set_column(rows.column_names.index(name), name, pa.array(values))


@pytest.mark.parametrize(
    ("rows", "known", "message"),
    [
        (candidates(("x", "d", 0.5)), ONE_POSITIVE, "query 'x' has no positive"),
        (GOOD.drop_columns("rank"), ONE_POSITIVE, "no column 'rank', only"),
        (with_column(GOOD, "rank", [0]), ONE_POSITIVE, "'rank' is 0; ranks count from 1"),
        (with_column(GOOD, "rank", ["1"]), ONE_POSITIVE, "'rank' is string"),
        (with_column(GOOD, "score", ["1"]), ONE_POSITIVE, "'score' is string, expected a number"),
        (with_column(GOOD, "score", [float("nan")]), ONE_POSITIVE, "row 0: 'score' is NaN"),
        (
            with_column(GOOD, "query_id", pa.nulls(1, pa.string())),
            ONE_POSITIVE,
            "row 0: 'query_id'",
        ),
        (with_column(GOOD, "doc_id", [["d"]]), ONE_POSITIVE, "'doc_id' is list<"),
        (with_column(GOOD, "doc_id", [7]), ONE_POSITIVE, "ids of one type"),
        (
            candidates(("q", "d", 0.5), ("q", "d", 0.4)),
            ONE_POSITIVE,
            "twice, the second time in row 1",
        ),
        (GOOD, positives(("q", "p", 1.0), ("q", "p", 1.0)), "positives: a .* stands twice"),
    ],
)
def test_tables_that_cannot_be_judged_are_refused_in_one_line(rows, known, message):
    with pytest.raises(InputError, match=message) as caught:
        judge(rows, known, MiningRules())
    assert "\n" not in str(caught.value)


def test_two_candidates_of_one_rank_are_refused():
    rows = with_column(candidates(("q", "a", 0.5), ("q", "b", 0.4)), "rank", [1, 1])

    with pytest.raises(InputError, match="a rank of a query stands twice"):
        judge(rows, ONE_POSITIVE, MiningRules())


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (None, "need documents"),
        (texts("doc_id", d="a"), "doc_id 'p' has no text"),
        (pa.table({"doc_id": ["d", "p", "p"], "text": ["a", "b", "c"]}), "doc_id 'p' stands twice"),
        (pa.table({"doc_id": ["d", "p"], "text": [["a"], ["b"]]}), "'text' is list"),
        (pa.table({"doc_id": ["d", "p"], "text": ["a", None]}), "'text' is null"),
        (pa.table({"doc_id": ["d", "p"]}), "needs a column 'text'"),
    ],
)
def test_texts_that_a_rule_needs_must_be_there(documents, message):
    with pytest.raises(InputError, match=message):
        judge(GOOD, ONE_POSITIVE, MiningRules(same_content=True), documents=documents)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"num_negatives": 0}, "at least 1"),
        ({"range_min": -1}, "must not be negative"),
        ({"range_min": 5, "range_max": 5}, "below range_max"),
        ({"num_negatives": 4, "range_min": 2, "range_max": 5}, "do not fit"),
        ({"sampling_strategy": "best"}, "one of top, random"),
        ({"margin_against": "median"}, "one of min, mean, max"),
        ({"positive_share": 1.5}, r"in \(0, 1\]"),
        ({"near_duplicate": 0.0}, r"in \(0, 1\]"),
        ({"max_score": float("nan")}, "max_score is NaN"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(rules, message):
    with pytest.raises(SpecError, match=message):
        MiningRules(**rules)


def test_no_candidates_give_no_rows():
    judged = judge(GOOD.slice(0, 0), ONE_POSITIVE, MiningRules(relative_margin=0.1))

    assert len(judged) == 0
    assert judged.schema.field("reason").type == pa.string()


# --- Several retrievers ----------------------------------------------------------------------


def test_rankings_unite_by_document_and_keep_what_each_said():
    words = candidates(("q", "a", 12.0), ("q", "b", 11.0), ("r", "a", 3.0))
    dense = candidates(("q", "b", 0.9), ("q", "c", 0.8))

    united = combine_rankings({"words": words, "dense": dense}).to_pylist()

    assert [(row["query_id"], row["doc_id"], row["rank"]) for row in united] == [
        ("q", "b", 1),
        ("q", "a", 2),
        ("q", "c", 3),
        ("r", "a", 1),
    ]
    assert united[0]["source"] == ["words", "dense"]
    assert united[0]["score"] == pytest.approx(1 / 62 + 1 / 61)
    assert (united[0]["words_rank"], united[0]["words_score"]) == (2, 11)
    assert (united[1]["dense_rank"], united[1]["dense_score"]) == (None, None)
    assert united[2]["source"] == ["dense"]


def test_united_rankings_can_be_judged():
    united = combine_rankings({"one": SIX, "two": SIX.slice(2)})

    judged = judge(united, ONE_POSITIVE, MiningRules(num_negatives=1))

    assert judged.filter(judged["negative"])["doc_id"].to_pylist() == ["d2"]


def test_a_ranking_that_names_a_document_twice_is_refused():
    with pytest.raises(InputError, match="dense row 1: .* stands twice"):
        combine_rankings({"dense": candidates(("q", "d", 0.5), ("q", "d", 0.4))})
    with pytest.raises(InputError, match="no ranking"):
        combine_rankings({})
