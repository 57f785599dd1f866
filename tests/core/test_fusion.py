import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stx_core.fusion import reciprocal_rank_fusion, weighted_fusion


def ranking(rows):
    """Rows of query, document and score; ranks count up within a query as rows come."""
    ranks, seen = [], {}
    for query, *_ in rows:
        seen[query] = seen.get(query, 0) + 1
        ranks.append(seen[query])
    return pa.table(
        {
            "query_id": pa.array([row[0] for row in rows], pa.string()),
            "doc_id": pa.array([row[1] for row in rows], pa.string()),
            "rank": pa.array(ranks, pa.int32()),
            "score": pa.array([row[2] for row in rows], pa.float32()),
        }
    )


def by_hand(rankings, share):
    """Sums of shares in dictionaries, ordered by query, score, document."""
    sums = {}
    for number, table in enumerate(rankings):
        for row in table.to_pylist():
            key = row["query_id"], row["doc_id"]
            sums[key] = sums.get(key, 0.0) + share(number, row)
    ordered = sorted(sums.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))
    return [(query, document, score) for (query, document), score in ordered]


def rows_of(table):
    return list(zip(*(table[c].to_pylist() for c in ("query_id", "doc_id", "score")), strict=True))


A = ranking([("q2", "a", 9.0), ("q2", "b", 5.0), ("q1", "c", 2.0)])
B = ranking([("q2", "b", 0.9), ("q2", "c", 0.8), ("q2", "a", 0.1), ("q3", "a", 0.5)])
IDS = st.tuples(st.sampled_from("xyz"), st.sampled_from("abcdefgh"))
RANKINGS = st.lists(st.lists(IDS, unique=True, max_size=24), min_size=1, max_size=4)


def test_reciprocal_ranks_add_up():
    fused = reciprocal_rank_fusion([A, B])

    assert fused.schema == pa.schema(
        {"query_id": pa.string(), "doc_id": pa.string(), "rank": pa.int32(), "score": pa.float32()}
    )
    assert fused["query_id"].to_pylist() == ["q1", "q2", "q2", "q2", "q3"]
    assert fused["doc_id"].to_pylist() == ["c", "b", "a", "c", "a"]
    assert fused["rank"].to_pylist() == [1, 1, 2, 3, 1]
    b, a = 1 / 62 + 1 / 61, 1 / 61 + 1 / 63
    assert fused["score"].to_pylist() == pytest.approx([1 / 61, b, a, 1 / 62, 1 / 61])


@given(RANKINGS, st.booleans())
def test_fusion_of_any_rankings_is_the_sum_by_hand(lists, weighted):
    tables = [ranking([(q, d, 1.0) for q, d in rows]) for rows in lists]
    weights = [0.5 + i for i in range(len(tables))] if weighted else None

    fused = reciprocal_rank_fusion(tables, k=10, weights=weights)

    expected = by_hand(
        tables, lambda i, row: 1.0 / (10 + row["rank"]) * (weights[i] if weights else 1)
    )
    assert [row[:2] for row in rows_of(fused)] == [row[:2] for row in expected]
    assert [row[2] for row in rows_of(fused)] == pytest.approx([row[2] for row in expected])


def test_scores_are_moved_to_one_scale_and_weighted():
    fused = weighted_fusion([A, B], [1.0, 2.0])

    # q2: a = 1 + 0, b = 0 + 2 * 1, c = 2 * (0.7 / 0.8); q1 and q3 hold one document each: 1.
    expected = [("q1", "c"), ("q2", "b"), ("q2", "c"), ("q2", "a"), ("q3", "a")]
    assert [row[:2] for row in rows_of(fused)] == expected
    assert [row[2] for row in rows_of(fused)] == pytest.approx([1.0, 2.0, 1.75, 1.0, 2.0])


def test_scores_may_be_taken_as_they_are():
    fused = weighted_fusion([A, B], [1.0, 10.0], normalize="none")

    assert rows_of(fused)[1:] == [
        ("q2", "b", 14.0),
        ("q2", "a", 10.0),
        ("q2", "c", 8.0),
        ("q3", "a", 5.0),
    ]


def test_equal_scores_are_ordered_by_document_and_cut_after_that():
    one = ranking([("q", "b", 1.0), ("q", "c", 1.0)])
    other = ranking([("q", "c", 1.0), ("q", "b", 1.0), ("q", "a", 1.0)])

    fused = reciprocal_rank_fusion([one, other], top_k=2)

    assert fused["doc_id"].to_pylist() == ["b", "c"]


def test_empty_rankings_fuse_to_an_empty_one():
    empty = A.slice(0, 0)

    assert reciprocal_rank_fusion([empty, empty]).schema.names == A.schema.names
    assert weighted_fusion([empty], [1.0]).num_rows == 0


@pytest.mark.parametrize(
    ("rankings", "settings", "message"),
    [
        ([], {}, "no ranking"),
        ([A], {"weights": [1.0, 2.0]}, "got 2 for 1"),
        ([A.drop_columns("rank")], {}, "ranking 0 lacks rank"),
        ([B, pa.concat_tables([A, A])], {}, "ranking 1 holds 3 documents more than once"),
        ([A], {"k": -1}, "above -1"),
        ([ranking([("q", None, 1.0)])], {}, "may not be null"),
    ],
)
def test_what_cannot_be_fused_is_refused_with_the_reason(rankings, settings, message):
    with pytest.raises(ValueError, match=message):
        reciprocal_rank_fusion(rankings, **settings)


def test_unknown_normalisations_and_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="min_max or none"):
        weighted_fusion([A], [1.0], normalize="z")
    with pytest.raises(ValueError, match="score holds NaN"):
        weighted_fusion([ranking([("q", "a", float("nan"))])], [1.0])
