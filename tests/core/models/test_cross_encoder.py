import json
import logging

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from stx_core import CrossEncoder, InputError, ModelError
from stx_core.models.modules.logit_score import LogitScore

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d", "e", "which", "animal"]
PAIRS = [("a b", "c"), ("a", "b c d e a b c d e a b c d e"), ("", "e")]


def bert_folder(folder, num_labels=1, **extra):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=12,
        num_labels=num_labels,
        initializer_range=0.3,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizerFast(vocab={w: i for i, w in enumerate(WORDS)}).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | extra))
    return folder


@pytest.fixture(scope="module")
def one_label(tmp_path_factory):
    return CrossEncoder(bert_folder(tmp_path_factory.mktemp("one")), device="cpu")


@pytest.fixture(scope="module")
def three_labels(tmp_path_factory):
    return CrossEncoder(bert_folder(tmp_path_factory.mktemp("three"), 3), device="cpu")


def test_score_gives_what_predict_gives_with_the_counts(one_label):
    scored = one_label.score(PAIRS)

    np.testing.assert_array_equal(scored.scores, one_label.predict(PAIRS))
    # [CLS] a b [SEP] c [SEP]; the limit of 12; [CLS] [SEP] e [SEP]
    assert scored.n_tokens.tolist() == [6, 12, 4]
    assert scored.truncated.tolist() == [False, True, False]
    assert (scored.scores.dtype, scored.n_tokens.dtype) == (np.float32, np.int32)
    assert scored.failed == {}


def test_score_of_several_labels_is_a_matrix(three_labels):
    assert three_labels.score(PAIRS).scores.shape == (3, 3)
    assert three_labels.score([]).scores.shape == (0, 3)


def test_a_small_token_budget_changes_no_score(one_label):
    np.testing.assert_allclose(
        one_label.score(PAIRS, token_budget=12).scores, one_label.score(PAIRS).scores, atol=1e-6
    )


def test_a_pair_that_does_not_fit_into_memory_fails_alone(one_label, monkeypatch):
    forward = one_label.forward

    def forward_of_small_batches(features):
        if features["input_ids"].numel() > 8:
            raise torch.OutOfMemoryError
        return forward(features)

    monkeypatch.setattr(one_label, "forward", forward_of_small_batches)

    scored = one_label.score(PAIRS)

    assert np.isnan(scored.scores).tolist() == [False, True, False]
    assert list(scored.failed) == [1]
    with pytest.raises(InputError, match="pair 1: a text of 12 tokens does not fit"):
        one_label.predict(PAIRS)


def test_the_prompt_goes_before_the_first_text(one_label):
    prompted = one_label.score([("a", "b")], prompt="which animal ")

    np.testing.assert_array_equal(
        prompted.scores, one_label.score([("which animal a", "b")]).scores
    )
    assert prompted.n_tokens.tolist() == [7]


def test_a_saved_prompt_is_found_by_name_and_by_default(tmp_path):
    model = CrossEncoder(
        bert_folder(tmp_path),
        device="cpu",
        prompts={"ask": "which animal "},
        default_prompt_name="ask",
    )

    expected = model.predict([("which animal a", "b")], prompt="")

    assert model.predict([("a", "b")]) == expected
    assert model.predict([("a", "b")], prompt_name="ask") == expected
    with pytest.raises(ValueError, match="'say'"):
        model.predict([("a", "b")], prompt_name="say")


@pytest.mark.parametrize(
    ("inputs", "kinds"),
    [
        ([("a", None)], "str, NoneType"),
        ([("a", "b"), ("a", 3)], "str, int"),
        ([("a", "b", "c")], "str, str, str"),
        ([["a"]], "str"),
        (["a", "b", "c"], "str, str, str"),
        ([None], "NoneType"),
    ],
)
def test_inputs_that_are_not_pairs_of_strings_are_refused(one_label, inputs, kinds):
    with pytest.raises(InputError, match=rf"must be two texts .*\({kinds}\)"):
        one_label.predict(inputs)


def test_rank_is_best_first_and_cuts_at_top_k(one_label):
    documents = ["c", "a", "d", "b"]

    rows = one_label.rank("a", documents, return_documents=True)

    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert [documents[row["corpus_id"]] for row in rows] == [row["text"] for row in rows]
    best = {"corpus_id": rows[0]["corpus_id"], "score": rows[0]["score"]}
    assert one_label.rank("a", documents, top_k=1) == [best]
    assert one_label.rank("a", []) == []


def test_rank_keeps_the_order_of_ties(one_label):
    # So many that a sort which is not stable shows.
    rows = one_label.rank("a", ["b"] * 100, activation_fn=torch.zeros_like)

    assert [row["corpus_id"] for row in rows] == list(range(100))


def test_rank_needs_one_label(three_labels):
    with pytest.raises(ValueError, match="1 label, this one has 3"):
        three_labels.rank("a", ["b"])


def test_the_activation_is_no_step_of_the_model(one_label):
    one_label.activation_fn = nn.Identity()
    raw = one_label.predict(PAIRS)
    one_label.activation_fn = nn.Sigmoid()

    np.testing.assert_allclose(one_label.predict(PAIRS), 1 / (1 + np.exp(-raw)), rtol=1e-6)
    assert len(one_label) == 1


def test_a_plain_function_may_be_the_activation(one_label):
    assert one_label.predict(PAIRS, activation_fn=torch.relu).min() >= 0


@pytest.mark.parametrize("activation", [lambda x: x + 1, nn.Linear(1, 1), nn.Sequential(nn.Tanh())])
def test_an_activation_that_no_folder_can_bring_back_is_not_saved(tmp_path, activation):
    folder = tmp_path / "plain"
    folder.mkdir()
    model = CrossEncoder(bert_folder(folder), device="cpu", activation_fn=activation)

    with pytest.raises(ModelError, match="cannot be saved"):
        model.save_pretrained(tmp_path / "saved")


def test_half_precision_scores_come_in_single_precision(tmp_path):
    model = CrossEncoder(
        bert_folder(tmp_path), device="cpu", model_kwargs={"dtype": torch.bfloat16}
    )

    assert model.predict(PAIRS).dtype == np.float32
    assert model.predict(PAIRS, convert_to_tensor=True).dtype == torch.float32
    # The sigmoid is taken in single precision: its values are none that bfloat16 has.
    scores = torch.from_numpy(model.predict(PAIRS))
    assert not torch.equal(scores, scores.bfloat16().float())


def test_max_length_limits_tokens_and_is_an_older_name(tmp_path):
    model = CrossEncoder(bert_folder(tmp_path), device="cpu", max_length=5)

    assert (model.max_seq_length, model.max_length) == (5, 5)
    assert model.score(PAIRS).n_tokens.tolist() == [5, 5, 4]
    model.max_length = 6
    assert model.max_seq_length == 6


def test_another_number_of_labels_than_the_folder_has_is_refused(tmp_path):
    folder = bert_folder(tmp_path, 3)

    assert CrossEncoder(folder, device="cpu", num_labels=3).num_labels == 3
    with pytest.raises(ModelError, match="num_labels=1 was asked for, the model has 3"):
        CrossEncoder(folder, device="cpu", num_labels=1)


def test_the_backbone_and_its_config_are_reachable(one_label):
    assert isinstance(one_label.model, BertForSequenceClassification)
    assert one_label.config is one_label.model.config


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_that_is_not_positive_is_refused(one_label, batch_size):
    with pytest.raises(ValueError, match="batch_size"):
        one_label.predict(PAIRS, batch_size=batch_size)


def test_several_devices_are_refused(one_label):
    with pytest.raises(ValueError, match=r"one device; .* got device=\['cpu', 'cpu'\]"):
        one_label.predict(PAIRS, device=["cpu", "cpu"])


def causal_folder(folder, words):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    ).save_pretrained(folder)
    return folder


def test_a_causal_checkpoint_is_scored_by_yes_against_no(tmp_path):
    model = CrossEncoder(causal_folder(tmp_path, [*WORDS, "yes", "no"]), device="cpu")

    head = model[1]

    assert isinstance(head, LogitScore)
    assert (head.true_token_id, head.false_token_id) == (len(WORDS), len(WORDS) + 1)
    assert model.num_labels == 1


def test_a_causal_score_does_not_depend_on_the_padding(tmp_path):
    model = CrossEncoder(causal_folder(tmp_path, [*WORDS, "yes", "no"]), device="cpu")

    together = model.predict(PAIRS[:2])

    alone = [model.predict(pair) for pair in PAIRS[:2]]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_causal_checkpoint_without_the_word_yes_is_refused(tmp_path):
    with pytest.raises(ModelError, match="'yes' is not one token"):
        CrossEncoder(causal_folder(tmp_path, [*WORDS, "no"]), device="cpu")


def test_modules_without_a_head_are_refused(one_label):
    from stx_core.models import Dropout
    from stx_core.models.modules.module import InputModule

    class Reader(InputModule):
        max_seq_length = None

    with pytest.raises(ModelError, match="gives scores; a CrossEncoder needs a head"):
        CrossEncoder(modules=[Reader(), Dropout()], device="cpu")


def test_saving_and_loading_changes_no_score(one_label, three_labels, tmp_path, caplog):
    for name, model in (("one", one_label), ("three", three_labels)):
        with caplog.at_level(logging.WARNING):
            model.save_pretrained(tmp_path / name)
            loaded = CrossEncoder(tmp_path / name, device="cpu")

        np.testing.assert_array_equal(loaded.predict(PAIRS), model.predict(PAIRS))
    assert caplog.text == ""


# --- What others call ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "shape"),
    [
        (lambda x: x.softmax(-1)[:, -1], (3,)),
        (lambda x: x[:, :2], (3, 2)),
        (lambda x: x.softmax(-1)[:, 1:2], (3, 1)),
        (lambda x: x.argmax(-1), (3,)),
        (lambda x: torch.stack([x, -x], 1), (3, 2, 3)),
    ],
)
def test_an_activation_may_change_the_shape_of_scores(three_labels, activation, shape):
    logits = three_labels.predict(PAIRS, activation_fn=nn.Identity(), convert_to_tensor=True)
    wanted = activation(logits).numpy().astype(np.float32)

    given = three_labels.predict(PAIRS, activation_fn=activation, batch_size=2)

    assert given.shape == wanted.shape == shape
    np.testing.assert_allclose(given, wanted, atol=1e-5)
    np.testing.assert_allclose(
        three_labels.predict(PAIRS[0], activation_fn=activation), wanted[0], atol=1e-5
    )
    np.testing.assert_allclose(
        three_labels.score(PAIRS, activation_fn=activation).scores, wanted, atol=1e-5
    )


def test_an_activation_of_the_constructor_may_reduce_labels(tmp_path):
    folder = bert_folder(tmp_path, 3)
    plain = CrossEncoder(folder, device="cpu", activation_fn=nn.Identity()).predict(PAIRS)

    last = CrossEncoder(folder, device="cpu", activation_fn=lambda x: x[:, -1]).predict(PAIRS)

    np.testing.assert_allclose(last, plain[:, -1], atol=1e-6)


@pytest.mark.parametrize("activation", [torch.mean, lambda x: x.sum(0), lambda x: x.tolist()])
def test_an_activation_that_loses_pairs_is_refused(three_labels, activation):
    with pytest.raises(ValueError, match="activation_fn must make a tensor with one row for each"):
        three_labels.predict(PAIRS[:2], activation_fn=activation)


def test_older_names_of_arguments_are_taken(one_label):
    plain = one_label.predict(PAIRS, activation_fn=nn.Identity())

    older = one_label.predict(sentences=PAIRS, activation_fct=nn.Identity(), num_workers=4)

    np.testing.assert_array_equal(older, plain)
    ranked = one_label.rank("a", ["b", "c"], convert_to_numpy=True, apply_softmax=True)
    assert ranked == one_label.rank(query="a", documents=iter(["b", "c"]), num_workers=0)
    with pytest.raises(ValueError, match="sentences is the older name of inputs: give one"):
        one_label.predict(inputs=PAIRS, sentences=PAIRS)


def test_older_names_of_the_constructor_are_taken(one_label, tmp_path):
    folder = bert_folder(tmp_path)

    model = CrossEncoder(
        model_name=str(folder),
        automodel_args={"dtype": "float64"},
        tokenizer_args={"model_max_length": 7},
        config_args={"hidden_dropout_prob": 0.5},
        classifier_dropout=0.25,
        default_activation_function=nn.Identity(),
        cache_dir=str(tmp_path),
        backend="torch",
    )

    assert model.dtype == torch.float64
    assert (model.max_seq_length, model.max_length) == (7, 7)
    assert model.config.hidden_dropout_prob == 0.5
    assert model.config.classifier_dropout == 0.25
    assert isinstance(model.default_activation_function, nn.Identity)
    assert CrossEncoder(folder, 1, 9, nn.Tanh(), "cpu").max_seq_length == 9


@pytest.mark.parametrize("pairs", [zip, lambda a, b: (pair for pair in zip(a, b, strict=True))])
def test_iterators_of_pairs_are_scored(one_label, pairs):
    np.testing.assert_array_equal(
        one_label.predict(pairs(*zip(*PAIRS, strict=True))), one_label.predict(PAIRS)
    )


def test_no_pairs_and_no_documents_give_nothing(one_label, three_labels):
    assert one_label.predict([]).shape == three_labels.predict([]).shape == (0,)
    assert one_label.predict(iter([])).shape == (0,)
    assert one_label.rank("a", []) == one_label.rank("a", iter([]), top_k=3) == []
    assert one_label.rank("a", ["b"], top_k=0) == []
    with pytest.raises(ValueError, match="top_k must be at least 0, got -1"):
        one_label.rank("a", ["b", "c"], top_k=-1)


def test_a_query_is_one_text_and_documents_are_many(one_label):
    with pytest.raises(InputError, match="query must be one text, got list"):
        one_label.rank(["a"], ["b"])
    with pytest.raises(InputError, match="documents must be a list of texts, got one str"):
        one_label.rank("a", "b c")


def test_rank_goes_through_the_predict_of_a_subclass(one_label):
    class Length(CrossEncoder):
        def predict(self, inputs, **options):
            return torch.tensor([float(len(document)) for _, document in inputs])

    model = Length(modules=list(one_label), device="cpu")

    assert [hit["corpus_id"] for hit in model.rank("a", ["b", "b c d", "b c"])] == [1, 2, 0]


def test_layers_that_compute_in_float32_are_chosen_anew(tmp_path):
    half = {"model_kwargs": {"dtype": "bfloat16"}, "device": "cpu"}
    head = "0.model.classifier"
    model = CrossEncoder(bert_folder(tmp_path), keep_in_fp32_modules=[head], **half)

    model.save(tmp_path / "saved")

    def dtype(model):
        return model.get_submodule(head)(torch.zeros(1, 16, dtype=torch.bfloat16)).dtype

    assert dtype(model) == dtype(CrossEncoder(tmp_path / "saved", **half)) == torch.float32
    model.set_keep_in_fp32_modules([])
    assert dtype(model) == torch.bfloat16
    with pytest.raises(ModelError, match="'0.model.head' is not there"):
        model.set_keep_in_fp32_modules(["0.model.head"])
