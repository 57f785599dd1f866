"""Model folders whose files say nonsense: one line that names it, or a model that works."""

import json
import random
import shutil
import socket

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification

from stx_core import CrossEncoder, SentenceTransformer
from stx_core.errors import ModelError
from stx_core.models.modules.bow import BoW
from stx_core.models.modules.dense import Dense
from stx_core.models.modules.layer_norm import LayerNorm
from stx_core.models.modules.lstm import LSTM
from stx_core.models.modules.normalize import Normalize
from stx_core.models.modules.pooling import Pooling
from stx_core.models.modules.router import Router
from stx_core.models.modules.word_embeddings import WordEmbeddings
from stx_core.models.modules.word_tokenizers import WordTokenizer
from stx_core.models.modules.word_weights import WordWeights

# peft asks transformers by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

TEXTS = ["the weather is lovely today", "long text"]


@pytest.fixture(autouse=True)
def no_questions_and_no_network(monkeypatch):
    def refuse(*arguments, **options):
        pytest.fail("something asked the terminal or the network")

    monkeypatch.setattr("builtins.input", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def use(folder, **options):
    """Load and run whatever the folder was saved as."""
    if folder.name == "cross":
        return CrossEncoder(str(folder), device="cpu", **options).predict([tuple(TEXTS)])
    return SentenceTransformer(str(folder), device="cpu", **options).encode(TEXTS)


@pytest.fixture(scope="session")
def saved(tiny_bert, save_static_model, tmp_path_factory):
    """Folders of most module types, by name."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("hostile")
    words = ["weather", "text", "long"]
    table = WordEmbeddings(WordTokenizer(words, ["the"]), np.eye(3, 8, dtype=np.float32))
    backbone = SentenceTransformer(str(tiny_bert), device="cpu")[0]
    static = SentenceTransformer(
        str(save_static_model(root / "made", words, np.eye(4, 8, dtype=np.float32))), device="cpu"
    )[0]
    models = {
        "words": [table, WordWeights(words, {"text": 2.0}), LSTM(8, 4), Pooling(8)],
        "bag": [BoW(words, {"text": 2.0}), Normalize()],
        "static": [static, LayerNorm(8), Dense(8, 4)],
        "routes": [Router.for_query_document([static], [static, Normalize()])],
        "dense": [backbone, Pooling(32), Dense(32, 8)],
    }
    for name, modules in models.items():
        SentenceTransformer(modules=modules, device="cpu").save_pretrained(root / name)
    config = BertConfig(
        vocab_size=256, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64, num_labels=1,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(root / "plain/cross")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_bert / name, root / "plain/cross")
    CrossEncoder(str(root / "plain/cross"), device="cpu").save_pretrained(root / "cross")
    return root


@pytest.fixture
def copy(saved, tmp_path):
    """Makes a copy of a saved folder, that a test may damage."""

    def make(name):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        return shutil.copytree(saved / name, tmp_path / name)

    return make


def nested(depth):
    return "[" * depth + "]" * depth


NONSENSE = [
    "null", "true", "-1", "0", "1" + "0" * 18, "3.7", "NaN", "Infinity", '"x"', '"a\\u0000b"',
    '"../x"', '"os.system"', '"trust_remote_code"', "[]", "[1]", "{}", '{"a": {"b": [1]}}',
    nested(50), "9" * 5000, nested(20_000),
]  # fmt: skip
CONTENTS = [
    None,
    b"",
    b"[]",
    b"null",
    b"3",
    b"{",
    b"\xff",
    b"[" * 50_000,
    b"9" * 5000,
    b'{"a": NaN}',
]


def keys(value, at=()):
    """Places in a JSON value; of a list, the first ones."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*at, key)
            # Not each of a vocabulary.
            yield from keys(inner, (*at, key)) if key not in ("vocab", "added_tokens") else ()
    elif isinstance(value, list):
        for key, inner in enumerate(value[:2]):
            yield (*at, key)
            yield from keys(inner, (*at, key))


def changed(value, at, new):
    """JSON text with nonsense in one place; `new` None drops it, "twice" repeats the key."""
    value = json.loads(json.dumps(value))
    place = value
    for key in at[:-1]:
        place = place[key]
    if new is None:
        del place[at[-1]]
        return json.dumps(value)
    place[at[-1]] = "HERE"
    return json.dumps(value).replace('"HERE"', new)


def outcome(folder, case):
    """What the error of the model says; "" for none. Any other error fails."""
    try:
        use(folder)
    except ModelError as error:
        return str(error)
    except Exception as error:
        raise AssertionError(f"{case}: {error!r}") from error
    return ""


@pytest.mark.parametrize(
    ("name", "n_cases"),
    [("words", 60), ("bag", 25), ("static", 60), ("routes", 40), ("dense", 40), ("cross", 30)],
)
def test_random_setting_values_give_a_one_line_error_or_a_working_model(name, n_cases, copy, saved):
    rng = random.Random(0)
    files = sorted((saved / name).rglob("*.json"))
    cases = [
        (path.relative_to(saved / name), at, new)
        for path in files
        for at in keys(json.loads(path.read_text()))
        for new in (*NONSENSE, None)
    ]
    raw = [(path.relative_to(saved / name), None, new) for path in files for new in CONTENTS]
    for relative, at, new in rng.sample(cases, n_cases) + rng.sample(raw, min(8, len(raw))):
        folder = copy(name)
        path = folder / relative
        if at is None and new is None:
            path.unlink()
        elif at is None:
            path.write_bytes(new)
        else:
            path.write_text(changed(json.loads(path.read_text()), at, new))
        assert "\n" not in outcome(folder, f"{relative} {at} {(new or '')[:40]!r}")


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("modules.json", [{"path": ["1"]}], "module 0 needs name, path and type"),
        ("modules.json", [{"path": 3}], "module 0 needs name, path and type"),
        ("modules.json", [{"type": {"a": 1}}], "module 0 needs name, path and type"),
        ("modules.json", [{"path": "a\0b"}], "is no path of a file"),
        ("modules.json", [{"kwargs": "task"}], "kwargs is 'task', not a list"),
        ("config_sentence_transformers.json", {"prompts": ["query"]}, "prompts is ['query'], not"),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}, "prompts is {'query': 3}"),
        ("config_sentence_transformers.json", {"requirements": ["torch"]}, "requirements is"),
        ("config_sentence_transformers.json", {"truncate_dim": -1}, "truncate_dim is -1"),
        ("config_sentence_transformers.json", {"default_prompt_name": "no"}, "is not a prompt"),
        ("config.json", {"dtype": "os.system"}, "config.json"),
        ("config.json", {"num_hidden_layers": 10**9}, "no model has more than 1,000"),
        ("config.json", {"num_labels": 10**9}, "no model has more than"),
        ("config.json", {"hidden_size": 10**18}, "no model has more than"),
        ("config.json", {"quantization_config": {"quant_method": {"a": 1}}}, "transformers cannot"),
        ("config.json", {"text_config": {"auto_map": {"AutoModel": "a.B"}}}, "which is not run"),
        ("config.json", {"text_config": {"_attn_implementation": "a/b"}}, "names foreign code"),
        ("config.json", {"_attn_implementation": {"": "a/b"}}, "names foreign code"),
        ("config.json", {"use_pretrained_backbone": True}, "from the hub"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "leaves no room"),
        ("sentence_bert_config.json", {"max_seq_length": "x"}, "max_seq_length is 'x', not"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {"x": 1}}}, "'x'"),
        ("sentence_bert_config.json", {"processing_kwargs": {"texts": {}}}, "'texts'"),
        ("sentence_bert_config.json", {"model_args": [1]}, "model_args is [1], not an object"),
        ("2_Dense/config.json", {"in_features": 10**30}, "a number of 100 bits"),
        ("2_Dense/config.json", {"in_features": 10**7}, "weights do not fit Dense"),
        ("1_Pooling/config.json", {"include_prompt": "no"}, "include_prompt is 'no', not true"),
    ],
)
def test_error_names_file_and_key(file, changes, says, copy):
    folder = copy("dense")
    config = json.loads((folder / file).read_text())
    if isinstance(config, list):
        config[0].update(changes[0])
    else:
        config.update(changes)
    (folder / file).write_text(json.dumps(config))

    with pytest.raises(ModelError) as error:
        use(folder)

    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("group", "key"),
    [
        *(
            ("model_kwargs", key)
            for key in (
                "device_map", "offload_folder", "proxies", "key_mapping", "tp_plan", "state_dict",
                "allow_all_kernels", "kernel_config", "quantization_config", "variant", "gguf_file",
                "force_download", "local_files_only", "max_memory", "generation_config",
            )
        ),
        *(("processor_kwargs", key) for key in ("vocab_file", "tokenizer_object", "gguf_file")),
        *(("config_kwargs", key) for key in ("auto_map", "model_type", "transformers_weights")),
    ],
)  # fmt: skip
def test_folder_may_set_only_listed_loading_arguments(group, key, copy):
    folder = copy("dense")
    path = folder / "sentence_bert_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {group: {key: "x"}}))

    with pytest.raises(ModelError, match=f"{group} may not set '{key}'"):
        use(folder)


def test_listed_loading_arguments_of_a_folder_are_used(copy):
    folder = copy("dense")
    path = folder / "sentence_bert_config.json"
    groups = {
        "model_kwargs": {"torch_dtype": "float16", "attn_implementation": "eager"},
        "processor_kwargs": {"model_max_length": 7},
        "config_kwargs": {"hidden_dropout_prob": 0.3},
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | groups))

    model = SentenceTransformer(str(folder), device="cpu")

    assert model.dtype == torch.float16
    assert model.max_seq_length == 7
    assert model[0].model.config.hidden_dropout_prob == 0.3


@pytest.mark.parametrize("content", [[1, 2], {"a": "text"}, {"a": {"b": torch.ones(2)}}, None])
def test_a_pickle_of_something_else_is_one_line_though_pickles_are_allowed(content, copy):
    folder = copy("static")
    for path in folder.rglob("model.safetensors"):
        if content is None:
            path.with_name("pytorch_model.bin").write_bytes(b"\x80\x04nonsense")
        else:
            torch.save(content, path.with_name("pytorch_model.bin"))
        path.unlink()

    with pytest.raises(ModelError, match=r"\A[^\n]*pytorch_model\.bin[^\n]*\Z"):
        use(folder, allow_pickle=True)


@pytest.mark.parametrize("kind", ["NO_SUCH", "XLORA", "PROMPT_TUNING", 3, None])
def test_an_adapter_of_another_kind_is_one_line(kind, tiny_bert, tmp_path):
    pytest.importorskip("peft")
    config = {"peft_type": kind, "base_model_name_or_path": str(tiny_bert)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    shutil.copy(tiny_bert / "model.safetensors", tmp_path / "adapter_model.safetensors")

    with pytest.raises(ModelError, match=r"\A[^\n]*adapter_config\.json[^\n]*\Z"):
        SentenceTransformer(str(tmp_path), device="cpu")


def test_all_valid_setting_values_are_accepted(copy):
    # The oldest and the newest way to say the same.
    folder = copy("dense")
    expected = use(folder)
    (folder / "1_Pooling/config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})
    )
    assert np.array_equal(use(folder), expected)
    assert load_file(folder / "2_Dense/model.safetensors")
