"""Measures and comparisons, against their formulas written out and against closed forms."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stx_core.errors import InputError, SpecError
from stx_core.evaluation.comparison import compare
from stx_core.evaluation.measures import DEFAULT_MEASURES, Evaluation, evaluate
from stx_core.evaluation.report import comparison_to_markdown, depth_note, to_json, to_markdown
from stx_core.store.schema import QRELS, RANKING


def table_of(rows, schema):
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=schema)


def qrels(*rows):
    return table_of(rows, QRELS)


def ranking(*rows):
    return [table_of(rows, RANKING)]


def by_hand(documents, judged):
    """The five measures of one query, from their definitions; documents best first."""
    gains = [judged.get(document, 0) for document in documents]
    ideal = sorted(judged.values(), reverse=True)
    n_relevant = sum(gain > 0 for gain in ideal)

    def dcg(values):
        return sum(value / math.log2(place + 2) for place, value in enumerate(values[:10]))

    places = [place for place, gain in enumerate(gains, start=1) if gain > 0]
    in_100 = [place for place in places if place <= 100]
    precisions = [found / place for found, place in enumerate(in_100, start=1)]
    return [
        dcg(gains) / dcg(ideal) if n_relevant else 0,
        1 / places[0] if places and places[0] <= 10 else 0,
        sum(precisions) / n_relevant if n_relevant else 0,
        len(in_100) / n_relevant if n_relevant else 0,
        sum(place <= 10 for place in places) / 10,
    ]


QUERIES = st.dictionaries(
    st.sampled_from([f"q{i}" for i in range(6)]),
    st.lists(st.sampled_from([f"d{i}" for i in range(130)]), unique=True, min_size=1, max_size=120),
    min_size=1,
)
JUDGEMENTS = st.dictionaries(
    st.sampled_from([f"q{i}" for i in range(6)]),
    st.dictionaries(st.sampled_from([f"d{i}" for i in range(130)]), st.integers(0, 3), min_size=1),
    min_size=1,
)


@settings(max_examples=60, deadline=None)
@given(QUERIES, JUDGEMENTS, st.integers(1, 60), st.randoms())
def test_measures_are_those_of_their_definitions(ranked, judged, cut, random):
    judged.setdefault(next(iter(ranked)), {"d0": 1})
    rows = []
    for query, documents in ranked.items():
        # Constant scores and any order of rows: the rank alone must decide.
        part = [(query, document, rank, 0.5) for rank, document in enumerate(documents, start=1)]
        random.shuffle(part)
        rows += part
    table = table_of(rows, RANKING)
    tables = [table.slice(start, cut) for start in range(0, len(table), cut)]
    judgements = qrels(*((q, d, score) for q, docs in judged.items() for d, score in docs.items()))

    found = evaluate(tables, judgements)

    assert found.measures == DEFAULT_MEASURES
    assert found.query_ids == tuple(judged)
    expected = [by_hand(ranked.get(query, []), docs) for query, docs in judged.items()]
    np.testing.assert_allclose(found.values, expected, atol=1e-12)
    assert found.means["nDCG@10"] == pytest.approx(np.mean([row[0] for row in expected]))
    assert found.n_not_ranked == len(judged.keys() - ranked.keys())
    assert found.n_not_judged == len(ranked.keys() - judged.keys())
    assert found.n_rows == sum(len(ranked[query]) for query in ranked.keys() & judged.keys())
    assert found.n_without_relevant == sum(max(docs.values()) == 0 for docs in judged.values())


def test_the_rank_decides_where_scores_say_otherwise():
    # trec_eval would order by score, and equal scores by document id from z to a.
    tables = ranking(("q", "a", 1, 0.1), ("q", "b", 2, 0.9), ("q", "c", 3, 0.9))

    assert evaluate(tables, qrels(("q", "a", 1)), ["RR@10"]).means == {"RR@10": 1}
    assert evaluate(tables, qrels(("q", "b", 1)), ["RR@10"]).means == {"RR@10": 1 / 2}
    assert evaluate(tables, qrels(("q", "c", 1)), ["P@1", "RR"]).means == {"P@1": 0, "RR": 1 / 3}


def test_equal_ranks_are_ordered_by_score_then_by_id():
    tables = ranking(("q", "c", 0, 0.5), ("q", "a", 0, 0.1), ("q", "b", 0, 0.5))

    found = {doc: evaluate(tables, qrels(("q", doc, 1)), ["RR"]).means["RR"] for doc in "abc"}

    assert found == {"b": 1, "c": 1 / 2, "a": 1 / 3}


def test_queries_that_are_not_ranked_count_as_zero_in_every_measure():
    found = evaluate(
        ranking(("q1", "a", 1, 1.0)),
        qrels(("q1", "a", 1), ("q2", "a", 1)),
        ["nDCG", "Success@1", "Judged@1", "Bpref", "AP(rel=2)@5"],
    )

    assert found.values[1].tolist() == [0, 0, 0, 0, 0]
    assert found.means["Success@1"] == 0.5
    assert found.n_not_ranked == 1


def test_the_same_judgement_twice_is_one_and_different_ones_are_refused():
    tables = ranking(("q", "a", 1, 1.0))

    assert evaluate(tables, qrels(("q", "a", 1), ("q", "a", 1)), ["R@5"]).means == {"R@5": 1}
    with pytest.raises(InputError, match="query 'q': document 'a' is judged 1 and 2"):
        evaluate(tables, qrels(("q", "a", 1), ("q", "a", 2)))


def test_a_document_that_is_ranked_twice_is_refused():
    with pytest.raises(InputError, match="query 'q': document 'a' is in its ranking more than"):
        evaluate(ranking(("q", "a", 1, 1.0), ("q", "a", 2, 0.5)), qrels(("q", "a", 1)))


def test_judgements_of_other_queries_are_refused():
    with pytest.raises(InputError, match="none of the 2 queries .* queries like 'Q1'"):
        evaluate(ranking(("1", "a", 1, 1.0), ("2", "a", 1, 1.0)), qrels(("Q1", "a", 1)))
    with pytest.raises(InputError, match="the ranking holds no rows"):
        evaluate([RANKING.empty_table()], qrels(("q", "a", 1)))


@pytest.mark.parametrize("name", ["nDGC@10", "nDCG@ten", "NumRel", "nDCG(dcg='exp-log2')@10", ""])
def test_measures_that_are_unknown_or_no_means_are_refused(name):
    with pytest.raises(SpecError, match="is not known; write it like nDCG@10"):
        evaluate(ranking(("q", "a", 1, 1.0)), qrels(("q", "a", 1)), [name])


def test_measures_that_look_deeper_than_the_ranking_are_named():
    ranked = ranking(("q", "a", 1, 2.0), ("q", "b", 2, 1.0), ("r", "a", 1, 1.0))
    judged = qrels(("q", "a", 1), ("r", "b", 1))

    found = evaluate(ranked, judged, ["nDCG@2", "AP@3", "RR", "R@100"])

    assert found.depth == 2
    assert depth_note(found).startswith(
        "ranking: no query has more than 2 documents; AP@3, R@100 count what lies deeper"
    )
    assert depth_note(evaluate(ranked, judged, ["nDCG@2", "RR"])) == ""


def evaluation(values, measures=("RR",)):
    values = np.asarray(values, float).reshape(-1, len(measures))
    queries = tuple(f"q{i}" for i in range(len(values)))
    return Evaluation(tuple(measures), queries, values, len(values), 0, 0, 0, 100)


def test_the_interval_and_p_value_of_a_normal_difference_are_those_of_theory():
    random = np.random.default_rng(1)
    difference = random.normal(0.02, 0.2, 400)
    base = random.uniform(0, 1, 400)
    first, second = evaluation(base + difference), evaluation(base)

    (found,) = compare(first, second)

    error = difference.std() / math.sqrt(400)
    assert found.difference == pytest.approx(difference.mean())
    assert found.low == pytest.approx(difference.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(difference.mean() + 1.96 * error, abs=0.1 * error)
    assert found.p_value == pytest.approx(math.erfc(difference.mean() / error / 2**0.5), abs=0.02)


def test_p_values_are_right_as_often_as_they_say():
    random = np.random.default_rng(0)

    p_values = [
        compare(evaluation(random.normal(size=60)), evaluation(np.zeros(60)), n_resamples=500)
        for _ in range(400)
    ]

    below = np.mean([found.p_value < 0.1 for (found,) in p_values])
    # No difference is there: one in ten is found, give or take three standard errors.
    assert below == pytest.approx(0.1, abs=0.045)


def test_swapping_two_rankings_turns_the_sign_and_equal_ones_do_not_differ():
    random = np.random.default_rng(2)
    first = evaluation(random.uniform(size=(50, 2)), ("RR", "AP"))
    second = evaluation(random.uniform(size=(50, 2)), ("RR", "AP"))

    there, back = compare(first, second), compare(second, first)
    same = compare(first, first)

    for a, b in zip(there, back, strict=True):
        assert (a.difference, a.p_value) == (-b.difference, b.p_value)
        assert (a.low, a.high) == pytest.approx((-b.high, -b.low))
    assert [each.p_value for each in same] == [1, 1]
    assert compare(first, second) == there


def test_evaluations_by_other_judgements_cannot_be_compared():
    with pytest.raises(ValueError, match="use the same qrels"):
        compare(evaluation([1, 2]), evaluation([1, 2, 3]))


def test_the_table_tells_measures_and_counts():
    found = evaluate(
        ranking(("q1", "a", 1, 1.0), ("q9", "a", 1, 1.0)),
        qrels(("q1", "a", 1), ("q2", "a", 0)),
        ["nDCG@10", "P@5"],
    )

    assert to_markdown(found) == (
        "| measure |   mean |\n"
        "| ------- | -----: |\n"
        "| nDCG@10 | 0.5000 |\n"
        "| P@5     | 0.1000 |\n"
        "\n"
        "2 judged queries, 1 ranked documents; 1 queries not in the ranking, counted as 0; "
        "1 queries without a relevant document, counted as 0; "
        "1 queries without judgements, left out\n"
    )
    assert json.loads(json.dumps(to_json(found))) == {
        "measures": {"nDCG@10": 0.5, "P@5": 0.1},
        "n_queries": 2,
        "n_rows": 1,
        "n_not_ranked": 1,
        "n_not_judged": 1,
        "n_without_relevant": 1,
        "queries": {"q1": {"nDCG@10": 1.0, "P@5": 0.2}, "q2": {"nDCG@10": 0.0, "P@5": 0.0}},
    }


def test_the_table_of_two_rankings_tells_both_and_their_difference():
    first, second = evaluation([1, 1, 1, 1]), evaluation([0.5, 0.5, 0.5, 0.5])

    told = comparison_to_markdown(first, second, compare(first, second, n_resamples=99))

    assert "| RR      |  1.0000 |  0.5000 |    +0.5000 | +0.5000 to +0.5000 | 0.0100 |" in told
    assert told.count("4 judged queries") == 2
