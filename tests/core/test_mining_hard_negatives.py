import logging

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers.normalizers import Lowercase
from tokenizers.processors import TemplateProcessing

from stx_core import SentenceTransformer, mine_hard_negatives, util
from stx_core.errors import InputError, SpecError
from stx_core.mining import embed, hard_negatives
from stx_core.mining.embed import cache_file

VECTORS = {
    "q": [1.0, 0.0],
    "p": [0.95, 0.3],
    "P ": [0.94, 0.33],
    "near": [0.9, 0.4],
    "far": [0.1, 1.0],
}


class Model:
    similarity_fn_name = "cosine"

    def __init__(self):
        self.calls = []

    def encode_query(self, texts, **options):
        self.calls.append(options)
        rows = np.array([VECTORS[text] for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    encode_document = encode_query


class Trained(torch.nn.Module):
    """A model with weights, which count how often they were asked."""

    similarity_fn_name = "cosine"

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([weight, 1.0]))
        self.calls = 0

    def encode_query(self, texts, **_):
        self.calls += 1
        rows = np.array([VECTORS[text] for text in texts]) * self.weight.detach().numpy()
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    encode_document = encode_query


CLS_ONLY = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])

PAIRS = Dataset.from_dict({"anchor": ["q"], "positive": ["p"]})
CORPUS = ["p", "P ", "near", "far"]


def mine(dataset=PAIRS, model=None, **settings):
    settings = {"num_negatives": 1, "corpus": CORPUS, "verbose": False, **settings}
    return mine_hard_negatives(dataset, model or Model(), **settings)


def test_the_best_that_is_no_positive_is_the_negative():
    assert mine().to_list() == [{"anchor": "q", "positive": "p", "negative": "P "}]


def test_copies_of_positives_can_be_left_out():
    assert mine(same_content=True)["negative"][:] == ["near"]


def test_a_share_of_the_positive_s_score_is_a_bar():
    assert mine(positive_share=0.95, num_negatives=3)["negative"][:] == ["far"]


def test_it_is_found_where_users_of_the_reference_look():
    assert util.mine_hard_negatives is mine_hard_negatives


def test_prompts_and_batch_size_reach_the_model():
    model = Model()

    mine(model=model, query_prompt_name="query", corpus_prompt="passage: ", batch_size=7)

    queries, documents = model.calls
    assert documents["prompt"] == "passage: "
    assert queries["prompt_name"] == "query"
    assert {call["batch_size"] for call in model.calls} == {7}
    assert all("pool" not in call for call in model.calls)


def test_queries_can_be_searched_in_blocks():
    dataset = Dataset.from_dict({"anchor": ["q", "near", "far"], "positive": ["p", "p", "near"]})

    assert mine(dataset, faiss_batch_size=1).to_list() == mine(dataset).to_list()


class Circle:
    """Texts that are angles in degrees."""

    similarity_fn_name = "cosine"

    def __init__(self):
        self.calls = []

    def encode_query(self, texts, **_):
        self.calls.append(list(texts))
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    encode_document = encode_query


# Around each anchor more documents lie above the bar than a narrow search finds.
ANGLES = Dataset.from_dict(
    {"anchor": ["0", "90", "180"], "positive": ["2.5", "92.5", "180.5"], "number": [1, 2, 3]}
)
CIRCLE = [str(angle / 2) for angle in range(720)]


@pytest.mark.parametrize("output_format", ["triplet", "labeled-list"])
@pytest.mark.parametrize(
    "rules",
    [
        {"absolute_margin": 0.01},
        {"relative_margin": 0.01, "range_min": 2},
        {"max_score": 0.98, "range_max": 60},
        {"absolute_margin": 0.01, "min_score": 0.9},
    ],
    ids=str,
)
def test_a_narrow_search_finds_what_the_whole_window_holds(
    monkeypatch, rules, output_format, caplog
):
    settings = {"corpus": CIRCLE, "num_negatives": 4, "output_format": output_format, **rules}
    with caplog.at_level(logging.INFO, logger="stx_core.mining"):
        found = mine_hard_negatives(ANGLES, Circle(), output_scores=True, **settings)
    said = [record.getMessage() for record in caplog.records]
    caplog.clear()
    monkeypatch.setattr(hard_negatives, "narrow_k", lambda rules, k: k)

    with caplog.at_level(logging.INFO, logger="stx_core.mining"):
        expected = mine_hard_negatives(ANGLES, Circle(), output_scores=True, **settings)

    assert len(expected) >= 3
    assert found.to_list() == expected.to_list()
    widened = [line for line in said if "need more than" in line]
    assert bool(widened) != ("min_score" in rules)
    assert [line for line in said if line not in widened] == [
        record.getMessage() for record in caplog.records
    ]


def test_documents_are_encoded_once_by_blocks(monkeypatch, tmp_path):
    whole = mine_hard_negatives(ANGLES, Circle(), corpus=CIRCLE, absolute_margin=0.01)
    monkeypatch.setattr(embed, "_BLOCK_TEXTS", 50)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(embed.tempfile, "tempdir", None)
    model = Circle()

    by_blocks = mine_hard_negatives(ANGLES, model, corpus=CIRCLE, absolute_margin=0.01)

    assert by_blocks.to_list() == whole.to_list()
    documents = [text for call in model.calls[1:] for text in call]
    assert max(map(len, model.calls)) == 50
    assert sorted(documents) == sorted({*CIRCLE, *ANGLES["positive"]})
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_fails_leaves_no_half_of_a_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(embed, "_BLOCK_TEXTS", 2)
    model = Trained()

    with pytest.raises(KeyError, match="unknown"):
        mine(model=model, corpus=[*CORPUS, "unknown"], cache_folder=tmp_path)

    assert [file.name.split("_")[0] for file in tmp_path.iterdir()] == ["query"]


def test_rows_of_a_dataset_are_read_in_their_order_and_form():
    upper = Dataset.from_dict({"anchor": ["Q", "x"], "positive": ["P", "y"]})
    lower = {"Q": "q", "P": "p", "x": "far", "y": "near"}
    shown = upper.with_transform(
        lambda batch: {name: [lower[text] for text in texts] for name, texts in batch.items()}
    )
    turned = Dataset.from_dict({"anchor": ["far", "q"], "positive": ["near", "p"]}).select([1, 0])

    assert mine(shown).to_list() == mine(turned).to_list()
    assert turned["anchor"][:] == ["q", "far"]
    assert mine(turned)["anchor"][:] == ["q", "far"]


def test_models_that_start_no_processes_say_so(caplog):
    mine(use_multi_process=True)

    assert "a Model starts no processes" in caplog.text


def test_models_that_start_processes_get_their_pool():
    class Pooled(Model):
        stopped = None

        def start_multi_process_pool(self, target_devices=None):
            return ("pool", target_devices)

        def stop_multi_process_pool(self, pool):
            self.stopped = pool

    model = Pooled()

    mine(model=model, use_multi_process=["cpu", "cpu"])

    assert model.stopped == ("pool", ["cpu", "cpu"])
    assert all(call["pool"] == model.stopped for call in model.calls)


def test_the_cache_is_kept_by_weights_and_texts(tmp_path):
    model = Trained()

    first = mine(model=model, cache_folder=tmp_path / "cache")
    again = mine(model=model, cache_folder=tmp_path / "cache")
    calls = model.calls
    mine(model=model, corpus=CORPUS[:3], cache_folder=tmp_path / "cache")
    trained = Trained(weight=0.01)
    mine(model=trained, cache_folder=tmp_path / "cache")

    assert again.to_list() == first.to_list()
    assert calls == 2
    assert model.calls == 3  # the queries stayed
    assert trained.calls == 2
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 5


def test_a_cache_needs_weights(tmp_path):
    with pytest.raises(InputError, match="a Model has no weights"):
        mine(cache_folder=tmp_path)


def test_what_is_missing_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="stx_core.mining"):
        mine(max_score=0.2, num_negatives=3, range_max=10, verbose=True)

    assert "due to the max_score of 0.2." in caplog.text
    assert "Could not find enough negatives for 2 samples (66.67%). Consider adjusting the " in (
        caplog.text
    )


def rows(**columns):
    return Dataset.from_dict(columns)


@pytest.mark.parametrize(
    ("dataset", "settings", "message"),
    [
        (rows(a=[], b=[]), {}, "no rows"),
        (rows(a=["q"]), {}, "only the columns"),
        (rows(a=["q"], b=["p"]), {"anchor_column_name": "c"}, "no column 'c', only 'a', 'b'"),
        (rows(a=["q"], b=["p"]), {"anchor_column_name": "b"}, "both column 'b'"),
        (rows(a=["q"], b=[["p"]]), {}, "'b' row 0 is a list, expected a string"),
        (rows(a=["q", None], b=["p", "p"]), {}, "'a' row 1 is null"),
        (rows(a=["q"], b=["p"]), {"corpus": []}, "corpus is empty"),
        (rows(a=["q"], b=["p"]), {"corpus": "p"}, "corpus is one string"),
        (rows(a=["q"], b=["p"]), {"corpus": ["p", 3]}, "corpus row 1 is a int"),
    ],
)
def test_datasets_that_cannot_be_mined_are_refused_in_one_line(dataset, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        mine(dataset, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_format": "pairs"}, "output_format must be one of triplet"),
        ({"faiss_batch_size": 0}, "faiss_batch_size must be at least 1"),
        ({"num_negatives": 0}, "at least 1"),
        ({"range_min": 3, "range_max": 2}, "below range_max"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(SpecError, match=message):
        mine(**settings)


def test_a_cross_encoder_with_several_labels_is_refused():
    class Labels:
        def predict(self, pairs, **_):
            return np.zeros((len(pairs), 3), np.float32)

    with pytest.raises(InputError, match=r"gives \(3,\) scores a pair"):
        mine(cross_encoder=Labels(), max_score=0.5)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "truncate_dim", 4),
        lambda model: setattr(model[1], "pooling_mode", "cls"),
        lambda model: setattr(model[1], "include_prompt", False),
        lambda model: setattr(model, "max_seq_length", 9),
        lambda model: setattr(model[0], "query_length", 5),
        lambda model: setattr(model[0].tokenizer, "truncation_side", "left"),
        lambda model: setattr(model[0].tokenizer.backend_tokenizer, "normalizer", Lowercase()),
        lambda model: model[0].tokenizer.add_tokens(["lovely weather"]),
        lambda model: setattr(model[0].tokenizer.backend_tokenizer, "post_processor", CLS_ONLY),
        lambda model: setattr(model[0].model.config, "hidden_act", "relu"),
        lambda model: model.prompts.update(query="query: "),
        lambda model: model[0].model.encoder.layer[0].register_forward_hook(lambda *_: None),
        lambda model: model[0].model.encoder.layer[0].output.dense.weight.data.mul_(2),
    ],
)
def test_every_setting_that_changes_vectors_names_another_file(change, tiny_bert, tmp_path):
    model = SentenceTransformer(str(tiny_bert), device="cpu")

    def name():
        return cache_file(tmp_path, "query", model, {"prompt": None}, ["a"])

    before = name()
    model.encode(["long text, long text", "a"])
    assert name() == before  # what it remembers of a run is no setting

    change(model)

    assert name() != before
