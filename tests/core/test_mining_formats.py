import pyarrow as pa
import pytest

from stx_core.errors import InputError
from stx_core.mining.formats import labeled_lists, labeled_pairs, n_tuples, triplets
from stx_core.mining.judge import judge
from stx_core.mining.negatives import hard_negatives
from stx_core.mining.rules import MiningRules
from stx_core.mining.texts import Texts
from stx_core.mining.trainer_formats import (
    flag_embedding,
    kl_lists,
    knowledge_distillation,
    margin_mse,
    tevatron_corpus,
    tevatron_ids,
    tevatron_passages,
)

# Query q1 has two positives and two negatives, q2 one of each, q3 a positive alone.
POSITIVES = pa.table(
    {
        "query_id": ["q1", "q2", "q1", "q3"],
        "doc_id": ["p1", "p2", "p3", "p1"],
        "score": pa.array([0.75, 0.5, 1.0, 0.25], pa.float32()),
    }
)
CANDIDATES = pa.table(
    {
        "query_id": ["q2", "q1", "q1", "q1"],
        "doc_id": ["n1", "n2", "p1", "n1"],
        "rank": pa.array([1, 2, 1, 3], pa.int32()),
        "score": pa.array([0.125, 0.625, 0.75, 0.5], pa.float32()),
        "source": [["dense"], ["words"], ["dense"], ["words", "dense"]],
    }
)
TEXTS = Texts(
    pa.table({"query_id": ["q3", "q2", "q1"], "text": ["Q3", "Q2", "Q1"]}),
    pa.table(
        {
            "doc_id": ["n1", "n2", "p1", "p2", "p3", "unused"],
            "text": ["N1", "N2", "P1", "P2", "P3", "U"],
            "title": ["t1", None, "t3", "t4", "t5", "t6"],
        }
    ),
)
NEGATIVES = hard_negatives(judge(CANDIDATES, POSITIVES, MiningRules()), POSITIVES)


def test_ids_of_each_query_stand_in_one_row():
    assert NEGATIVES.to_pylist() == [
        {
            "query_id": "q1",
            "positive_ids": ["p1", "p3"],
            "positive_scores": [0.75, 1.0],
            "negative_ids": ["n2", "n1"],
            "negative_scores": [0.625, 0.5],
            "negative_ranks": [2, 3],
            "negative_sources": [["words"], ["words", "dense"]],
        },
        {
            "query_id": "q2",
            "positive_ids": ["p2"],
            "positive_scores": [0.5],
            "negative_ids": ["n1"],
            "negative_scores": [0.125],
            "negative_ranks": [1],
            "negative_sources": [["dense"]],
        },
        {
            "query_id": "q3",
            "positive_ids": ["p1"],
            "positive_scores": [0.25],
            "negative_ids": [],
            "negative_scores": [],
            "negative_ranks": [],
            "negative_sources": [],
        },
    ]


def rows_of(table):
    return [tuple(row.values()) for row in table.to_pylist()]


def test_triplets_pair_each_positive_with_each_negative():
    table = triplets(NEGATIVES, TEXTS, scores=True, anchor="a", positive="b")

    assert table.column_names == ["a", "b", "negative", "scores"]
    assert rows_of(table) == [
        ("Q1", "P1", "N2", [0.75, 0.625]),
        ("Q1", "P1", "N1", [0.75, 0.5]),
        ("Q1", "P3", "N2", [1.0, 0.625]),
        ("Q1", "P3", "N1", [1.0, 0.5]),
        ("Q2", "P2", "N1", [0.5, 0.125]),
    ]


def test_n_tuples_leave_out_queries_with_too_few_negatives():
    table = n_tuples(NEGATIVES, TEXTS, 2, scores=True)

    assert table.column_names == ["query", "positive", "negative_1", "negative_2", "scores"]
    assert rows_of(table) == [
        ("Q1", "P1", "N2", "N1", [0.75, 0.625, 0.5]),
        ("Q1", "P3", "N2", "N1", [1.0, 0.625, 0.5]),
    ]


def test_labeled_pairs_keep_positives_of_queries_without_negatives():
    labels = rows_of(labeled_pairs(NEGATIVES, TEXTS))
    scores = rows_of(labeled_pairs(NEGATIVES, TEXTS, scores=True))

    assert labels == [
        ("Q1", "P1", 1),
        ("Q1", "P3", 1),
        ("Q1", "N2", 0),
        ("Q1", "N1", 0),
        ("Q2", "P2", 1),
        ("Q2", "N1", 0),
        ("Q3", "P1", 1),
    ]
    assert [row[2] for row in scores] == [0.75, 1.0, 0.625, 0.5, 0.5, 0.125, 0.25]


def test_labeled_lists_hold_one_positive_first():
    labels = rows_of(labeled_lists(NEGATIVES, TEXTS))
    scores = rows_of(labeled_lists(NEGATIVES, TEXTS, scores=True))

    assert labels == [
        ("Q1", ["P1", "N2", "N1"], [1, 0, 0]),
        ("Q1", ["P3", "N2", "N1"], [1, 0, 0]),
        ("Q2", ["P2", "N1"], [1, 0]),
    ]
    assert [row[2] for row in scores] == [[0.75, 0.625, 0.5], [1.0, 0.625, 0.5], [0.5, 0.125]]


def test_flag_embedding_rows_hold_all_positives_and_negatives():
    table = flag_embedding(NEGATIVES, TEXTS, prompt="find", type="normal")

    assert table.to_pylist() == [
        {
            "query": "Q1",
            "pos": ["P1", "P3"],
            "neg": ["N2", "N1"],
            "pos_scores": [0.75, 1.0],
            "neg_scores": [0.625, 0.5],
            "prompt": "find",
            "type": "normal",
        },
        {
            "query": "Q2",
            "pos": ["P2"],
            "neg": ["N1"],
            "pos_scores": [0.5],
            "neg_scores": [0.125],
            "prompt": "find",
            "type": "normal",
        },
    ]
    assert flag_embedding(NEGATIVES, TEXTS, scores=False).column_names == ["query", "pos", "neg"]


def test_tevatron_rows_name_documents_or_hold_them():
    ids = tevatron_ids(NEGATIVES, TEXTS).to_pylist()
    passages = tevatron_passages(NEGATIVES, TEXTS).to_pylist()

    assert ids[0] == {
        "query_id": "q1",
        "query_text": "Q1",
        "positive_document_ids": ["p1", "p3"],
        "negative_document_ids": ["n2", "n1"],
    }
    assert [row["query_id"] for row in passages] == ["q1", "q2"]
    assert passages[0]["positive_passages"][1] == {"docid": "p3", "title": "t5", "text": "P3"}
    assert passages[0]["negative_passages"][0] == {"docid": "n2", "title": "", "text": "N2"}
    assert tevatron_corpus(TEXTS.documents).to_pylist()[0] == {
        "docid": "n1",
        "document_text": "N1",
    }


def test_distillation_rows_hold_ids_and_scores_positives_first():
    assert rows_of(knowledge_distillation(NEGATIVES)) == [
        ("q1", ["p1", "p3", "n2", "n1"], [0.75, 1.0, 0.625, 0.5]),
        ("q2", ["p2", "n1"], [0.5, 0.125]),
    ]


def test_margin_rows_hold_positive_less_negative():
    pairs = margin_mse(NEGATIVES, TEXTS)
    lists = margin_mse(NEGATIVES, TEXTS, num_negatives=2)

    assert pairs.column_names == ["query", "positive", "negative", "score"]
    assert pairs["score"].to_pylist() == [0.125, 0.25, 0.375, 0.5, 0.375]
    assert lists.column_names[-1] == "score"
    assert lists["score"].to_pylist() == [[0.125, 0.25], [0.375, 0.5]]


def test_kl_rows_hold_a_list_of_documents_and_their_scores():
    table = kl_lists(NEGATIVES, TEXTS)

    assert table.column_names == ["query", "documents", "scores"]
    assert rows_of(table)[2] == ("Q2", ["P2", "N1"], [0.5, 0.125])


MAKERS = [
    triplets,
    labeled_pairs,
    labeled_lists,
    flag_embedding,
    tevatron_ids,
    tevatron_passages,
    margin_mse,
    kl_lists,
]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_every_format_of_no_queries_has_its_columns_and_no_rows(make):
    whole, none = make(NEGATIVES, TEXTS), make(NEGATIVES.slice(0, 0), TEXTS)

    assert len(none) == 0
    assert none.schema.names == whole.schema.names


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_every_format_of_blocks_is_the_format_of_all(make):
    blocks = [make(NEGATIVES.slice(i, 1), TEXTS) for i in range(3)]

    assert [row for block in blocks for row in block.to_pylist()] == make(
        NEGATIVES, TEXTS
    ).to_pylist()


def test_integer_ids_do_as_well():
    def numbered(table):
        ids = pa.array(
            [int(value[1:]) * 10 + ord(value[0]) for value in table["doc_id"].to_pylist()]
        )
        return table.set_column(table.column_names.index("doc_id"), "doc_id", ids)

    positives, documents = numbered(POSITIVES), numbered(TEXTS.documents.slice(0, 5))
    negatives = hard_negatives(judge(numbered(CANDIDATES), positives, MiningRules()), positives)

    found = triplets(negatives, Texts(TEXTS.queries, documents))

    assert found.equals(triplets(NEGATIVES, TEXTS))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (Texts(TEXTS.queries, TEXTS.documents.slice(1)), "doc_id 'n1' has no text"),
        (Texts(TEXTS.queries.slice(1), TEXTS.documents), "query_id 'q3' has no text"),
        (
            Texts(pa.concat_tables([TEXTS.queries] * 2), TEXTS.documents),
            "queries row 3: query_id 'q3' stands twice",
        ),
        (Texts(TEXTS.queries, TEXTS.documents.slice(0, 0)), "has no text"),
    ],
)
def test_missing_and_repeated_texts_are_refused(texts, message):
    with pytest.raises(InputError, match=message):
        triplets(NEGATIVES, texts)
