"""mine_hard_negatives against Sentence Transformers, on real claims, abstracts and embeddings."""

import gzip
import itertools
import json
import logging
from collections import defaultdict

import numpy as np
import pytest
import sentence_transformers
import torch
from datasets import Dataset
from sentence_transformers.util import mine_hard_negatives as reference

import stx_core
from stx_core import mine_hard_negatives

FORMATS = ["triplet", "n-tuple", "labeled-pair", "labeled-list"]
# Of the 256 that the model reads: vectors like any, in a fraction of the time.
MAX_TOKENS = 32
# Each rule alone and together; window sizes that run out of candidates; scores of either sign.
RULES = [
    {},
    {"num_negatives": 1},
    {"range_min": 4},
    {"range_max": 3},
    {"max_score": 0.4},
    {"min_score": 0.3},
    {"min_score": 0.3, "range_max": 20},
    {"absolute_margin": 0.1},
    {"absolute_margin": -0.05, "range_max": 12},
    {"relative_margin": 0.0},
    {"relative_margin": 0.1, "num_negatives": 5},
    {"relative_margin": 0.05, "absolute_margin": 0.02, "max_score": 0.5, "min_score": 0.2},
    {"range_min": 3, "range_max": 15, "relative_margin": 0.2, "num_negatives": 7},
    {"range_min": 20, "range_max": 150, "num_negatives": 2, "max_score": 0.35},
]


@pytest.fixture(scope="module")
def scifact(shared_data):
    """Pairs of claim and abstract, and 150 more abstracts; cut to the first 300 letters."""
    folder = shared_data / "scifact"
    with gzip.open(folder / "corpus.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    documents = {row["_id"]: f"{row['title']}. {row['text']}"[:300] for row in rows}
    queries = {}
    for line in (folder / "queries.jsonl").read_text().splitlines():
        row = json.loads(line)
        queries[row["_id"]] = row["text"]
    lines = (folder / "qrels.test.tsv").read_text().splitlines()[1:]
    qrels = [line.split("\t") for line in lines[:130]]
    pairs = [(queries[query], documents[document]) for query, document, _ in qrels]
    claims, abstracts = zip(*pairs, strict=True)
    pairs = Dataset.from_dict({"claim": claims, "abstract": abstracts, "number": range(len(pairs))})
    return pairs, [documents[row["_id"]] for row in rows[:150]]


class Embedded:
    """The embeddings of real MiniLM, computed once and looked up by text."""

    similarity_fn_name = "cosine"
    device = torch.device("cpu")

    def __init__(self, vectors):
        self.vectors = vectors

    def encode_query(self, texts, **options):
        assert options["normalize_embeddings"]
        return np.stack([self.vectors[text] for text in texts])

    encode_document = encode_query

    def similarity(self, left, right):
        return sentence_transformers.util.cos_sim(left, right)

    def similarity_pairwise(self, left, right):
        return sentence_transformers.util.pairwise_cos_sim(left, right)


class Teacher:
    """Stands in for a cross-encoder: another score of either sign, and a count of calls."""

    def __init__(self, vectors):
        self.vectors, self.calls = vectors, 0

    def predict(self, pairs, convert_to_tensor=False, **_):
        self.calls += 1
        left, right = (np.stack([self.vectors[pair[i]] for pair in pairs]) for i in (0, 1))
        scores = 2 * (left[:, :200] * right[:, :200]).sum(axis=1) - np.float32(0.2)
        return torch.from_numpy(scores) if convert_to_tensor else scores


@pytest.fixture(scope="module")
def vectors(scifact, minilm):
    pairs, corpus = scifact
    texts = list(dict.fromkeys([*pairs["claim"], *pairs["abstract"], *corpus]))
    model = stx_core.SentenceTransformer(str(minilm), device="cpu")
    model.max_seq_length = MAX_TOKENS
    embeddings = model.encode(texts, normalize_embeddings=True)
    return dict(zip(texts, embeddings, strict=True))


def assert_same(mined, expected):
    assert mined.column_names == expected.column_names
    assert len(mined) == len(expected)
    if not len(expected):  # without rows the reference does not know the types
        return
    assert mined.features == expected.features
    for name in expected.column_names:
        if name in ("score", "scores"):
            left, right = np.hstack(mined[name][:]), np.hstack(expected[name][:])
            np.testing.assert_allclose(left, right, atol=1e-5, rtol=0)
        else:
            assert mined[name][:] == expected[name][:]


@pytest.mark.parametrize("rules", RULES, ids=str)
@pytest.mark.parametrize("with_corpus", [False, True])
@pytest.mark.parametrize("rescored", [False, True])
def test_rules_and_formats_mine_the_same(scifact, vectors, rules, with_corpus, rescored):
    pairs, corpus = scifact
    model, teacher = Embedded(vectors), Teacher(vectors) if rescored else None
    settings = {"corpus": corpus if with_corpus else None, "cross_encoder": teacher, **rules}

    for output_format, scores in itertools.product(FORMATS, [True] if rescored else [False, True]):
        layout = {"output_format": output_format, "output_scores": scores, "verbose": False}
        expected = reference(pairs, model, **settings, **layout)
        # The rules are such that they leave something to compare.
        assert len(expected) > 10 or output_format == "n-tuple"
        assert_same(mine_hard_negatives(pairs, model, **settings, **layout), expected)


@pytest.mark.parametrize("rules", [{}, {"max_score": 0.5}, {"range_min": 1}, {"num_negatives": 9}])
def test_rankings_with_positives_are_the_same(scifact, vectors, rules):
    settings = {"include_positives": True, "output_scores": True, "verbose": False, **rules}

    expected = reference(scifact[0], Embedded(vectors), **settings)

    assert_same(mine_hard_negatives(scifact[0], Embedded(vectors), **settings), expected)


def test_more_slots_than_documents_are_no_documents(scifact, vectors):
    # The reference pads short results with row -1, which is also the last document.
    pairs = scifact[0].select(range(6))
    settings = {"num_negatives": 8, "output_format": "labeled-pair", "verbose": False}

    expected = reference(pairs, Embedded(vectors), **settings)

    assert_same(mine_hard_negatives(pairs, Embedded(vectors), **settings), expected)


def test_other_columns_can_be_anchor_and_positive(scifact, vectors):
    pairs = scifact[0].select_columns(["number", "abstract", "claim"])
    settings = {"anchor_column_name": "abstract", "positive_column_name": "claim"}

    expected = reference(pairs, Embedded(vectors), **settings, verbose=False)

    assert_same(mine_hard_negatives(pairs, Embedded(vectors), **settings, verbose=False), expected)


@pytest.mark.parametrize(
    "old",
    [
        {"as_triplets": True},
        {"as_triplets": False},
        {"margin": 0.1},
        {"output_format": "n-tuple-scores"},
    ],
    ids=str,
)
def test_deprecated_parameters_still_work(scifact, vectors, old, caplog):
    pairs = scifact[0].select(range(80))

    with caplog.at_level(logging.ERROR):
        expected = reference(pairs, Embedded(vectors), verbose=False, **old)
    mined = mine_hard_negatives(pairs, Embedded(vectors), verbose=False, **old)

    assert_same(mined, expected)


def test_the_whole_way_with_real_models_is_the_same(scifact, minilm, tiny_tokenizer, tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    # Candidates are rescored in one call here, query by query there.
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=256,
        intermediate_size=64,
        max_position_embeddings=128,
        num_labels=1,
        initializer_range=0.3,
        **sizes,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    for file in tiny_tokenizer.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    pairs = scifact[0].select(range(40))
    settings = {"relative_margin": 0.1, "output_scores": True, "output_format": "labeled-list"}
    settings |= {"query_prompt": "claim: ", "corpus_prompt": "abstract: ", "verbose": False}

    theirs, ours = (
        library.SentenceTransformer(str(minilm), device="cpu")
        for library in (sentence_transformers, stx_core)
    )
    theirs.max_seq_length = ours.max_seq_length = MAX_TOKENS

    expected = reference(
        pairs,
        theirs,
        cross_encoder=sentence_transformers.CrossEncoder(str(tmp_path), device="cpu"),
        **settings,
    )
    mined = mine_hard_negatives(
        pairs,
        ours,
        cross_encoder=stx_core.CrossEncoder(str(tmp_path), device="cpu"),
        **settings,
    )

    assert len(expected) > 20
    assert_same(mined, expected)


def test_random_negatives_are_of_the_reference_s_range_best_first(scifact, vectors):
    # The reference draws from a global generator: the same draw cannot be asked for, a valid one.
    rules = {"range_min": 2, "range_max": 12, "max_score": 0.6}
    everything = reference(scifact[0], Embedded(vectors), num_negatives=10, verbose=False, **rules)
    allowed = defaultdict(list)
    for row in everything:
        allowed[row["claim"], row["abstract"]].append(row["negative"])

    settings = {"sampling_strategy": "random", "num_negatives": 4, "verbose": False, **rules}
    mined, again, other = (
        mine_hard_negatives(scifact[0], Embedded(vectors), seed=seed, **settings)
        for seed in (7, 7, 8)
    )

    found = defaultdict(list)
    for row in mined:
        found[row["claim"], row["abstract"]].append(row["negative"])
    assert found.keys() == allowed.keys()
    for pair, negatives in found.items():
        places = [allowed[pair].index(negative) for negative in negatives]
        assert len(negatives) == min(4, len(allowed[pair]))
        assert places == sorted(set(places))
    assert again["negative"][:] == mined["negative"][:]
    assert other["negative"][:] != mined["negative"][:]


def test_random_negatives_do_not_depend_on_the_other_rows(scifact, vectors):
    pairs, corpus = scifact
    corpus = [*corpus, *pairs["abstract"]]
    settings = {"sampling_strategy": "random", "num_negatives": 2, "range_max": 10}
    settings |= {"corpus": corpus, "verbose": False}
    first = pairs.filter(lambda row: row["claim"] <= "H")

    def mined(rows):
        found = mine_hard_negatives(rows, Embedded(vectors), **settings)
        return sorted(zip(found["claim"], found["abstract"], found["negative"], strict=True))

    assert mined(first) == [row for row in mined(pairs) if row[0] <= "H"]


@pytest.mark.parametrize("rules", [{}, {"num_negatives": 8}, *RULES[7:10]], ids=str)
@pytest.mark.parametrize("output_format", FORMATS)
def test_the_summary_is_the_reference_s(scifact, vectors, rules, output_format, capsys, caplog):
    settings = {"output_format": output_format, **rules}
    reference(scifact[0], Embedded(vectors), **settings)
    printed = capsys.readouterr().out

    with caplog.at_level(logging.INFO, logger="stx_core.mining"):
        mine_hard_negatives(scifact[0], Embedded(vectors), **settings)

    said = [record.getMessage() for record in caplog.records]
    wanted = [
        line
        for line in printed.splitlines()
        if line.split()[0] in ("Metric", "Count", "Mean", "Median", "Std", "Min", "Max", "Skipped")
        or line[:3] in ("25%", "50%", "75%")
    ]
    assert len(wanted) >= 10
    for line in wanted:
        assert any(close(line, own) for own in said), (line, said)


def close(line, other):
    """The same words, and numbers that differ by rounding alone."""
    pairs = list(itertools.zip_longest(line.split(), other.split()))
    return all(left == right or rounded(left, right) for left, right in pairs)


def rounded(left, right):
    try:
        return abs(float(left) - float(right)) < 1.5e-4
    except (TypeError, ValueError):
        return False


def test_the_teacher_is_asked_once_for_all_and_only_if_a_rule_needs_it(scifact, vectors):
    needed, not_needed = Teacher(vectors), Teacher(vectors)
    model = Embedded(vectors)

    mine_hard_negatives(scifact[0], model, cross_encoder=needed, max_score=0.1, verbose=False)
    mine_hard_negatives(scifact[0], model, cross_encoder=not_needed, verbose=False)

    assert (needed.calls, not_needed.calls) == (1, 0)


def test_parameters_and_defaults_are_the_reference_s():
    import inspect

    ours = list(inspect.signature(mine_hard_negatives).parameters.values())
    theirs = list(inspect.signature(reference).parameters.values())

    assert [(p.name, p.default) for p in ours[: len(theirs)]] == [
        (p.name, p.default) for p in theirs
    ]
    assert {p.kind for p in ours[len(theirs) :]} == {inspect.Parameter.KEYWORD_ONLY}
