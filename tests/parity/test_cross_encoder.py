"""CrossEncoder against Sentence Transformers, on small random models in the published layouts."""

import json
import re

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import CrossEncoder as Reference
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn

from stx_core import CrossEncoder, ModelError

ATOL = 1e-5
IDENTITY = "torch.nn.modules.linear.Identity"
SIGMOID = "torch.nn.modules.activation.Sigmoid"

PASTA = "A man is eating pasta."
PASTA_DOCUMENTS = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A man is riding a horse.",
    "A woman is playing violin.",
    "Two men pushed carts through the woods.",
    "A man is riding a white horse on an enclosed ground.",
    "A monkey is playing drums.",
    "A cheetah is running behind its prey.",
]
BERLIN = "How many people live in Berlin?"
BERLIN_DOCUMENTS = [
    "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square "
    "kilometers.",
    "Berlin has a yearly total of about 135 million day visitors, making it one of the most "
    "visited cities in the European Union.",
    "In 2013 around 600,000 Berliners were registered in one of the more than 2,300 sport and "
    "fitness clubs.",
]
PAIRS = [
    *((BERLIN, document) for document in BERLIN_DOCUMENTS),
    *((PASTA, document) for document in PASTA_DOCUMENTS),
    ("", ""),
    (" spaces around ", "\ttabs and\nlines "),
    ("long " * 60, "longer " * 70),  # longer than any of the models reads
]
TEXTS = [text for pair in PAIRS for text in pair] + ["query yes no document"]

# A rerank template as published ones are: roles query and document, a fixed ending.
CHAT_TEMPLATE = (
    "<|start|>system\n"
    "{{ messages | selectattr('role', 'eq', 'system') | map(attribute='content') | first "
    "| default('Is the document relevant?') }}<|end|>\n"
    "<|start|>user\n"
    "query: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}\n"
    "document: "
    "{{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}"
    "<|end|>\n<|start|>assistant\n"
)
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
# Wide initial weights: scores of a random model then differ enough to be ranked.
WIDE = {"initializer_range": 0.3, "intermediate_size": 48}


def bert_tokenizer(**settings):
    words = {word for text in TEXTS for word in re.findall(r"\w+|[^\w\s]", text.lower())}
    letters = {letter for word in words for letter in (word[0], *(f"##{c}" for c in word))}
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # Half of the words stay whole, the others fall into letters.
    vocab = [*special, *sorted(letters | set(sorted(words)[::2]))]
    return transformers.BertTokenizerFast(
        vocab={word: i for i, word in enumerate(vocab)}, do_lower_case=True, **settings
    )


def byte_level(special):
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    words.train_from_iterator([*TEXTS, *["yes no"] * 9], trainer)
    return words


def roberta_tokenizer(**settings):
    words = byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    words.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        **settings,
    )


def chat_tokenizer(**settings):
    words = byte_level(["<|pad|>", "<|start|>", "<|end|>"])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<|pad|>", eos_token="<|end|>", **settings
    )


def save(folder, model_class, config, tokenizer, extra=None):
    torch.manual_seed(0)
    model_class(config).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    edit_config(folder, extra or {})
    return str(folder)


def edit_config(folder, extra):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | extra))


def bert_folder(folder, extra=None, num_labels=1, **tokenizer_settings):
    tokenizer = bert_tokenizer(**{"model_max_length": 48, **tokenizer_settings})
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=48,
        num_labels=num_labels,
        **SIZES,
        **WIDE,
    )
    kind = transformers.BertForSequenceClassification
    return save(folder, kind, config, tokenizer, extra)


def roberta_folder(folder, extra=None):
    tokenizer = roberta_tokenizer(model_max_length=48)
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=50,  # two more than positions, as in all RoBERTa models
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        num_labels=1,
        **SIZES,
        **WIDE,
    )
    kind = transformers.RobertaForSequenceClassification
    return save(folder, kind, config, tokenizer, extra)


def causal_folder(folder, chat_template=CHAT_TEMPLATE):
    tokenizer = chat_tokenizer(model_max_length=96, chat_template=chat_template)
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        **SIZES,
        **WIDE,
    )
    return save(folder, transformers.Qwen3ForCausalLM, config, tokenizer)


def causal_classifier_folder(folder, chat_template=CHAT_TEMPLATE):
    tokenizer = chat_tokenizer(model_max_length=96, chat_template=chat_template)
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
        **SIZES,
        **WIDE,
    )
    return save(folder, transformers.Qwen3ForSequenceClassification, config, tokenizer)


MS_MARCO_OLD = {"sbert_ce_default_activation_function": IDENTITY}
MS_MARCO = {"sentence_transformers": {"activation_fn": IDENTITY, "version": "4.1.0.dev0"}}
STSB = {"sentence_transformers": {"activation_fn": SIGMOID, "version": "4.1.0.dev0"}}
LAYOUTS = {
    "ms_marco_before_4": lambda folder: bert_folder(folder, MS_MARCO_OLD),
    "ms_marco_4_to_5.3": lambda folder: bert_folder(folder, MS_MARCO),
    "ms_marco_both_keys": lambda folder: bert_folder(folder, MS_MARCO | MS_MARCO_OLD),
    "stsb_4_to_5.3": lambda folder: roberta_folder(folder, STSB),
    "no_activation_stored": bert_folder,
    "three_labels": lambda folder: bert_folder(folder, num_labels=3),
    "causal_reranker": causal_folder,
    "classifier_with_chat_template": causal_classifier_folder,
}


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request, tmp_path_factory):
    return LAYOUTS[request.param](tmp_path_factory.mktemp(request.param.replace(".", "_")))


@pytest.fixture(scope="module", params=["plain", "saved_by_reference", "saved_by_us"])
def both(request, layout, tmp_path_factory):
    """The same model loaded by us and by the reference."""
    reference = Reference(layout, device="cpu")
    if request.param == "plain":
        return CrossEncoder(layout, device="cpu"), reference
    saved = str(tmp_path_factory.mktemp("saved"))
    if request.param == "saved_by_reference":
        reference.save_pretrained(saved)
        return CrossEncoder(saved, device="cpu"), reference
    CrossEncoder(layout, device="cpu").save_pretrained(saved)
    return CrossEncoder(saved, device="cpu"), Reference(saved, device="cpu")


@pytest.fixture(scope="module")
def ms_marco(tmp_path_factory):
    return CrossEncoder(bert_folder(tmp_path_factory.mktemp("ms_marco"), MS_MARCO), device="cpu")


@pytest.fixture(scope="module")
def three_labels(tmp_path_factory):
    folder = bert_folder(tmp_path_factory.mktemp("labels"), num_labels=3)
    return CrossEncoder(folder, device="cpu"), Reference(folder, device="cpu")


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=ATOL, rtol=0)


def test_predict_equals_the_reference(both):
    ours, reference = both

    assert_close(ours.predict(PAIRS), reference.predict(PAIRS))
    assert ours.num_labels == reference.num_labels
    assert ours.max_seq_length == reference.max_seq_length


def test_predict_with_a_prompt_equals_the_reference(both):
    ours, reference = both
    prompt = "Which animals? "

    assert_close(ours.predict(PAIRS, prompt=prompt), reference.predict(PAIRS, prompt=prompt))


def test_a_shorter_length_equals_the_reference(both):
    ours, reference = both
    before = ours.max_seq_length, reference.max_seq_length
    ours.max_seq_length = reference.max_seq_length = 24

    try:
        assert_close(ours.predict(PAIRS), reference.predict(PAIRS))
    finally:
        ours.max_seq_length, reference.max_seq_length = before


@pytest.mark.parametrize(
    ("query", "documents"), [(PASTA, PASTA_DOCUMENTS), (BERLIN, BERLIN_DOCUMENTS)]
)
def test_rank_order_equals_the_reference(both, query, documents):
    ours, reference = both
    if reference.num_labels != 1:
        for model in both:
            with pytest.raises(ValueError, match="label"):
                model.rank(query, documents)
        return

    rows = ours.rank(query, documents, return_documents=True)

    expected = reference.rank(query, documents, return_documents=True)
    assert [row["corpus_id"] for row in rows] == [row["corpus_id"] for row in expected]
    assert [row["text"] for row in rows] == [row["text"] for row in expected]
    assert_close([row["score"] for row in rows], [row["score"] for row in expected])


def test_softmax_comes_after_the_activation_and_only_for_labels(three_labels, ms_marco):
    ours, reference = three_labels
    settings = {"activation_fn": nn.Sigmoid(), "apply_softmax": True}

    assert_close(ours.predict(PAIRS, **settings), reference.predict(PAIRS, **settings))
    assert_close(ours.predict(PAIRS, apply_softmax=True).sum(axis=1), np.ones(len(PAIRS)))
    assert_close(ms_marco.predict(PAIRS, apply_softmax=True), ms_marco.predict(PAIRS))


def test_a_per_call_activation_does_not_stay(ms_marco):
    before = ms_marco.predict(PAIRS)

    sigmoid = ms_marco.predict(PAIRS, activation_fn=nn.Sigmoid())

    assert_close(sigmoid, 1 / (1 + np.exp(-before)))
    assert_close(ms_marco.predict(PAIRS), before)


@pytest.mark.parametrize("modules_from", ["reference", "ours"])
def test_a_dense_head_equals_the_reference(tmp_path, modules_from):
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import Pooling

    folder = tmp_path / "backbone"
    folder.mkdir()
    bert_folder(folder)
    torch.manual_seed(1)
    transformer = transformers_module(folder)
    head = Dense(32, 1, activation_function=nn.Identity(), module_output_name="scores")
    reference = Reference(modules=[transformer, Pooling(32, "cls"), head], device="cpu")
    reference.save_pretrained(str(tmp_path / "saved"))

    ours = CrossEncoder(str(tmp_path / "saved"), device="cpu")
    if modules_from == "ours":
        ours.save_pretrained(str(tmp_path / "again"))
        ours = CrossEncoder(str(tmp_path / "again"), device="cpu")
        reference = Reference(str(tmp_path / "again"), device="cpu")

    assert_close(ours.predict(PAIRS), reference.predict(PAIRS))
    assert ours.num_labels == 1


def transformers_module(folder):
    from sentence_transformers.base.modules import Transformer

    return Transformer(str(folder), transformer_task="feature-extraction")


# Behaviour of the reference that is easily missed.


@pytest.mark.parametrize(
    ("extra", "num_labels", "expected"),
    [
        ({}, 1, nn.Sigmoid),
        ({}, 3, nn.Identity),
        (MS_MARCO_OLD, 1, nn.Identity),
        (MS_MARCO, 1, nn.Identity),
        (STSB | MS_MARCO_OLD, 1, nn.Sigmoid),  # the newer key wins
    ],
)
def test_activation_comes_from_the_config_of_either_age(tmp_path, extra, num_labels, expected):
    folder = bert_folder(tmp_path, extra, num_labels)

    assert type(CrossEncoder(folder, device="cpu").activation_fn) is expected
    assert type(Reference(folder, device="cpu").activation_fn) is expected


def test_the_newest_place_wins_and_an_argument_wins_over_all(tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    saved = str(tmp_path / "saved")
    Reference(bert_folder(folder, MS_MARCO), activation_fn=nn.Tanh()).save_pretrained(saved)

    assert type(CrossEncoder(saved, device="cpu").activation_fn) is nn.Tanh
    given = CrossEncoder(saved, device="cpu", activation_fn=nn.ReLU())
    assert type(given.activation_fn) is nn.ReLU


@pytest.mark.parametrize("key", ["old", "new"])
def test_an_unknown_activation_is_an_error(tmp_path, key):
    name = "my_package.Squash"
    extra = {
        "old": {"sbert_ce_default_activation_function": name},
        "new": {"sentence_transformers": {"activation_fn": name}},
    }[key]

    with pytest.raises(ModelError, match=r"my_package\.Squash"):
        CrossEncoder(bert_folder(tmp_path, extra), device="cpu")


def test_a_classifier_whose_template_drops_a_role_is_refused(tmp_path):
    deaf = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    folder = causal_classifier_folder(tmp_path, chat_template=deaf)

    with pytest.raises(ValueError, match="query"):
        Reference(folder, device="cpu").predict(PAIRS)
    with pytest.raises(ModelError, match="leaves out the query and the document"):
        CrossEncoder(folder, device="cpu").predict(PAIRS)


def test_order_and_company_do_not_change_scores(ms_marco):
    alone = np.array([ms_marco.predict(pair) for pair in PAIRS])

    assert_close(ms_marco.predict(PAIRS, batch_size=3), alone)
    assert_close(ms_marco.predict(PAIRS[::-1]), alone[::-1])


def test_shapes_and_types_equal_the_reference(three_labels, ms_marco, tmp_path):
    reference = Reference(bert_folder(tmp_path, MS_MARCO), device="cpu")
    for ours, theirs in ((ms_marco, reference), three_labels):
        for inputs in (PAIRS[0], list(PAIRS[0]), PAIRS[:1], PAIRS, np.array(PAIRS), []):
            for settings in (
                {},
                {"convert_to_tensor": True},
                {"convert_to_numpy": False},
            ):
                mine, other = (model.predict(inputs, **settings) for model in (ours, theirs))

                assert type(mine) is type(other), (inputs, settings)
                assert np.shape(mine) == np.shape(other), (inputs, settings)
                if isinstance(other, list):
                    assert [type(row) for row in mine] == [type(row) for row in other]
                elif len(inputs):  # of nothing the reference gives double precision
                    assert mine.dtype == other.dtype


def test_one_pair_gives_a_numpy_scalar_and_rank_gives_python_floats(ms_marco):
    assert type(ms_marco.predict((PASTA, "food"))) is np.float32
    row = ms_marco.rank(PASTA, ["food"])[0]
    assert (type(row["corpus_id"]), type(row["score"])) == (int, float)


def test_a_backbone_without_a_trained_head_is_refused(tmp_path):
    config = transformers.BertConfig(vocab_size=400, max_position_embeddings=48, **SIZES)
    folder = save(tmp_path, transformers.BertModel, config, bert_tokenizer())

    with pytest.raises(ModelError, match="untrained"):
        CrossEncoder(folder, device="cpu")
    with pytest.raises(ModelError, match="untrained"):
        CrossEncoder(folder, device="cpu", num_labels=1)


def test_a_dense_model_is_refused(minilm):
    with pytest.raises(ModelError, match="SentenceTransformer"):
        CrossEncoder(str(minilm), device="cpu")
