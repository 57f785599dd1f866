"""Dense models against published numbers and against the installed Sentence Transformers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentence_transformers
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers.sentence_transformer import modules as reference_models
from transformers import AutoTokenizer

from stx_core.errors import ModelError
from stx_core.models.modules.dense import Dense
from stx_core.models.modules.module import LoadOptions
from stx_core.models.modules.normalize import Normalize
from stx_core.models.modules.pooling import Pooling
from stx_core.models.modules.router import Router
from stx_core.models.modules.transformer import Transformer
from stx_core.models.sentence_transformer import SentenceTransformer

QUICKSTART = [
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
]
TEXTS = [
    *QUICKSTART,
    "",
    "  spaces stay  ",
    "A",
    "Ünïcode und mehr: 你好",
    "long text " * 60,
    "b c",
]
MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


def write(folder: Path, name: str, value: object) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def reference(folder: Path, **options) -> sentence_transformers.SentenceTransformer:
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu", **options)


def ours(folder: Path, **options) -> SentenceTransformer:
    return SentenceTransformer(folder, device="cpu", **options)


def assert_same(folder: Path, texts: list[str] = TEXTS, **arguments) -> None:
    expected = reference(folder).encode(texts, **arguments)
    actual = ours(folder).encode(texts, **arguments)
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def old_folder(tmp_path: Path, backbone: Path, pooling: dict, **settings) -> Path:
    """A folder as libraries up to 5.3 wrote it, with a Normalize folder that git has lost."""
    folder = tmp_path / "old"
    shutil.copytree(backbone, folder)
    write(folder, "sentence_bert_config.json", {"max_seq_length": 32} | settings)
    write(folder, "1_Pooling/config.json", pooling)
    names = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(names)
    ]
    write(folder, "modules.json", entries)
    return folder


def old_pooling(*modes: str, **more) -> dict:
    flags = {
        f"pooling_mode_{key}": mode in modes
        for key, mode in {
            "cls_token": "cls",
            "max_tokens": "max",
            "mean_tokens": "mean",
            "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
            "weightedmean_tokens": "weightedmean",
            "lasttoken": "lasttoken",
        }.items()
    }
    return {"word_embedding_dimension": 32} | flags | more


# --- Published numbers ---------------------------------------------------------------------------


def test_minilm_gives_the_published_similarities_of_the_quickstart(minilm):
    model = ours(minilm)

    embeddings = model.encode(QUICKSTART)
    similarities = model.similarity(embeddings, embeddings)

    assert embeddings.shape == (3, 384)
    expected = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]
    np.testing.assert_allclose(similarities.numpy(), expected, atol=1e-4)


def test_minilm_gives_the_scores_of_the_upstream_reproduction_test(minilm):
    model = ours(minilm)
    documents = [
        "Venus is often called Earth's twin because of its similar size and proximity.",
        "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
        "Jupiter, the largest planet in our solar system, has a prominent red spot.",
        "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
    ]

    query = model.encode_query("Which planet is known as the Red Planet?")
    scores = model.similarity(query, model.encode_document(documents))

    np.testing.assert_allclose(scores[0], [0.46469, 0.81146, 0.72792, 0.75019], atol=1e-3)


def test_minilm_equals_the_reference_on_texts_of_all_lengths(minilm):
    assert_same(minilm, [*TEXTS, "word " * 500])


# --- Folders of all generations ------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_pooling_of_the_old_config_generation(mode, tiny_bert, tmp_path):
    assert_same(old_folder(tmp_path, tiny_bert, old_pooling(mode)))


@pytest.mark.parametrize("mode", MODES)
def test_pooling_of_the_new_config_generation(mode, tiny_bert, tmp_path):
    pooling = {"embedding_dimension": 32, "pooling_mode": mode, "include_prompt": True}

    assert_same(old_folder(tmp_path, tiny_bert, pooling))


def test_several_old_modes_are_concatenated_in_the_fixed_order(tiny_bert, tmp_path):
    folder = old_folder(tmp_path, tiny_bert, old_pooling(*MODES))

    assert_same(folder)

    assert ours(folder).get_embedding_dimension() == 6 * 32


def test_several_new_modes_are_concatenated_in_their_own_order(tiny_bert, tmp_path):
    pooling = {"embedding_dimension": 32, "pooling_mode": ["mean", "cls", "max"]}

    assert_same(old_folder(tmp_path, tiny_bert, pooling))


def test_no_mode_at_all_means_mean(tiny_bert, tmp_path):
    assert_same(old_folder(tmp_path, tiny_bert, old_pooling()))


@pytest.mark.parametrize(
    "name", ["roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"]
)
def test_settings_under_a_legacy_file_name_are_read(name, tiny_bert, tmp_path):
    folder = old_folder(tmp_path, tiny_bert, old_pooling("mean"))
    (folder / "sentence_bert_config.json").unlink()
    write(folder, f"sentence_{name}_config.json", {"max_seq_length": 7, "do_lower_case": False})

    assert_same(folder)

    assert ours(folder).max_seq_length == 7


def test_a_backbone_in_a_folder_of_its_own_is_loaded(tiny_bert, tmp_path):
    folder = tmp_path / "oldest"
    shutil.copytree(tiny_bert, folder / "0_BERT")
    write(folder, "0_BERT/sentence_bert_config.json", {"max_seq_length": 20})
    write(folder, "1_Pooling/config.json", old_pooling("mean"))
    entries = [
        {"idx": 0, "name": "0", "path": "0_BERT", "type": "sentence_transformers.models.BERT"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
    ]
    write(folder, "modules.json", entries)
    actual = ours(folder).encode(TEXTS)

    entries[0]["type"] = "sentence_transformers.models.Transformer"  # the reference forgot BERT
    write(folder, "modules.json", entries)
    np.testing.assert_allclose(actual, reference(folder).encode(TEXTS), atol=1e-5)


def dense_folder(tmp_path: Path, backbone: Path, **options) -> Path:
    torch.manual_seed(1)
    modules = [
        reference_models.Transformer(str(backbone)),
        reference_models.Pooling(32, "mean"),
        reference_models.Dense(32, **options),
        reference_models.Normalize(),
    ]
    model = sentence_transformers.SentenceTransformer(modules=modules, device="cpu")
    model.save_pretrained(str(tmp_path / "dense"), create_model_card=False)
    return tmp_path / "dense"


@pytest.mark.parametrize(
    "options",
    [
        {"out_features": 8},
        {"out_features": 8, "bias": False, "activation_function": torch.nn.Identity()},
        {"out_features": 32, "use_residual": True, "activation_function": torch.nn.GELU()},
        {"out_features": 8, "use_residual": True},
    ],
    ids=["tanh", "identity_without_bias", "residual_same_width", "residual_projected"],
)
def test_dense_and_normalize_saved_by_the_reference(options, tiny_bert, tmp_path):
    assert_same(dense_folder(tmp_path, tiny_bert, **options))


def test_dense_of_the_old_generation_with_pickled_weights(tiny_bert, tmp_path):
    folder = dense_folder(tmp_path, tiny_bert, out_features=8)
    write(
        folder,
        "2_Dense/config.json",
        {
            "in_features": 32,
            "out_features": 8,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        },
    )
    expected = reference(folder).encode(TEXTS)
    module = ours(folder)[2]
    torch.save(module.state_dict(), folder / "2_Dense/pytorch_model.bin")
    (folder / "2_Dense/model.safetensors").unlink()

    np.testing.assert_allclose(ours(folder, allow_pickle=True).encode(TEXTS), expected, atol=1e-5)


def test_what_we_save_the_reference_loads(tiny_bert, tmp_path):
    torch.manual_seed(2)
    modules = [
        Transformer.from_checkpoint(
            tiny_bert, LoadOptions(), {"max_seq_length": 17, "do_lower_case": True}
        ),
        Pooling(32, ["mean", "max"]),
        Dense(64, 12, use_residual=True),
        Normalize(),
    ]
    model = SentenceTransformer(
        modules=modules,
        device="cpu",
        prompts={"query": "q: ", "style": "s "},
        default_prompt_name="style",
        similarity_fn_name="dot",
        truncate_dim=10,
    )
    model.save_pretrained(tmp_path / "ours")

    other = reference(tmp_path / "ours")
    again = ours(tmp_path / "ours")

    np.testing.assert_allclose(other.encode(TEXTS), model.encode(TEXTS), atol=1e-5)
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))
    assert other.prompts == again.prompts == {"query": "q: ", "document": "", "style": "s "}
    assert other.similarity_fn_name == again.similarity_fn_name == "dot"
    assert other.truncate_dim == again.truncate_dim == 10
    assert other.max_seq_length == again.max_seq_length == 17


# --- Backbones -----------------------------------------------------------------------------------

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 256,
    "max_position_embeddings": 66,
    "pad_token_id": 0,
}
BACKBONES = {
    "bert": ("BertModel", transformers.BertConfig(**SMALL)),
    "roberta": ("RobertaModel", transformers.RobertaConfig(**SMALL)),
    "mpnet": ("MPNetModel", transformers.MPNetConfig(**SMALL)),
    "distilbert": (
        "DistilBertModel",
        transformers.DistilBertConfig(
            dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=66
        ),
    ),
    "modernbert": (
        "ModernBertModel",
        transformers.ModernBertConfig(**SMALL, global_attn_every_n_layers=2, local_attention=8),
    ),
    "xlnet": (
        "XLNetModel",
        transformers.XLNetConfig(vocab_size=256, d_model=32, n_layer=2, n_head=2, d_inner=64),
    ),
    "t5": (
        "T5Model",
        transformers.T5Config(
            vocab_size=256, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2
        ),
    ),
    "llama": ("LlamaModel", transformers.LlamaConfig(**SMALL, num_key_value_heads=1)),
    "qwen3": ("Qwen3Model", transformers.Qwen3Config(**SMALL, num_key_value_heads=1, head_dim=16)),
}


def backbone_folder(tmp_path: Path, name: str, tokenizer: Path, head: str | None = None) -> Path:
    torch.manual_seed(3)
    class_name, config = BACKBONES[name]
    folder = tmp_path / name
    getattr(transformers, head or class_name)(config).save_pretrained(folder)
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    return folder


@pytest.mark.parametrize("name", list(BACKBONES))
def test_plain_backbones_get_the_arguments_that_they_declare(name, tiny_tokenizer, tmp_path):
    # Short enough for RoBERTa's 64 positions: the reference would run out of its table.
    texts = [text[:150] for text in TEXTS]

    assert_same(backbone_folder(tmp_path, name, tiny_tokenizer), texts)


def test_of_t5_only_the_encoder_is_loaded(tiny_tokenizer, tmp_path):
    model = ours(backbone_folder(tmp_path, "t5", tiny_tokenizer))

    assert type(model.transformers_model).__name__ == "T5EncoderModel"


def test_roberta_counts_two_rows_of_its_positions_for_padding(tiny_tokenizer, tmp_path):
    BACKBONES["roberta"][1].pad_token_id = 1
    model = ours(backbone_folder(tmp_path, "roberta", tiny_tokenizer))

    assert model.max_seq_length == 64
    assert model.encode("word " * 500).shape == (32,)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_plain_causal_models_get_last_token_pooling(name, side, tiny_tokenizer, tmp_path):
    head = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}[name]
    folder = backbone_folder(tmp_path, name, tiny_tokenizer, head)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = side
    tokenizer.save_pretrained(folder)

    assert_same(folder)

    assert ours(folder)[1].pooling_mode == "lasttoken"


def test_a_causal_architecture_that_is_not_causal_gets_mean_pooling(tiny_tokenizer, tmp_path):
    folder = backbone_folder(tmp_path, "llama", tiny_tokenizer, "LlamaForCausalLM")
    config = json.loads((folder / "config.json").read_text())
    write(folder, "config.json", config | {"is_causal": False})

    assert ours(folder)[1].pooling_mode == reference(folder)[1].pooling_mode == "mean"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_checkpoint_decides_the_number_format(dtype, tiny_tokenizer, tmp_path):
    BACKBONES["bert"][1].dtype = dtype
    torch.manual_seed(3)
    folder = tmp_path / dtype
    backbone = transformers.BertModel(BACKBONES["bert"][1]).to(getattr(torch, dtype))
    backbone.save_pretrained(folder)
    shutil.copytree(tiny_tokenizer, folder, dirs_exist_ok=True)
    expected = reference(folder).encode(TEXTS)

    actual = ours(folder).encode(TEXTS)
    single = ours(folder, model_kwargs={"dtype": "float32"}).encode(TEXTS)
    old_name = ours(folder, model_kwargs={"torch_dtype": torch.float32}).encode(TEXTS)

    assert actual.dtype == expected.dtype == (np.float16 if dtype == "float16" else np.float32)
    np.testing.assert_allclose(actual, expected, atol=2e-2)
    np.testing.assert_array_equal(single, old_name)
    assert single.dtype == np.float32


# --- Prompts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mode", MODES)
def test_a_prompt_that_is_not_pooled(mode, side, tiny_bert, tmp_path):
    folder = old_folder(tmp_path, tiny_bert, old_pooling(mode, include_prompt=False))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = side
    tokenizer.save_pretrained(folder)
    texts = [text for text in TEXTS if text != ""]

    assert_same(folder, texts, prompt="represent the sentence: ")


def test_a_text_that_is_all_prompt(tiny_bert, tmp_path):
    folder = old_folder(tmp_path, tiny_bert, old_pooling("mean", include_prompt=False))

    assert_same(folder, ["", "some"], prompt="represent the sentence: ")


def prompted(tmp_path: Path, backbone: Path, prompts: dict, default: str | None = None) -> Path:
    folder = old_folder(tmp_path, backbone, old_pooling("mean"))
    config = {"prompts": prompts, "default_prompt_name": default}
    write(folder, "config_sentence_transformers.json", config)
    return folder


def test_query_and_document_never_use_the_default_prompt(tiny_bert, tmp_path):
    folder = prompted(tmp_path, tiny_bert, {"style": "in style: ", "passage": "p: "}, "style")
    model, other = ours(folder), reference(folder)
    plain = model.encode(TEXTS, prompt="")

    np.testing.assert_array_equal(model.encode_query(TEXTS), plain)
    np.testing.assert_array_equal(model.encode_document(TEXTS), plain)
    assert np.abs(model.encode(TEXTS) - plain).max() > 1e-3
    for method in ("encode", "encode_query", "encode_document"):
        expected = getattr(other, method)(TEXTS)
        np.testing.assert_allclose(getattr(model, method)(TEXTS), expected, atol=1e-5)


def test_saved_query_and_document_prompts_are_used(tiny_bert, tmp_path):
    folder = prompted(tmp_path, tiny_bert, {"query": "query: ", "document": "passage: "})
    model, other = ours(folder), reference(folder)

    for method in ("encode_query", "encode_document"):
        expected = getattr(other, method)(TEXTS)
        np.testing.assert_allclose(getattr(model, method)(TEXTS), expected, atol=1e-5)


# --- What encode returns -------------------------------------------------------------------------


def test_white_space_stays_for_a_tokenizer_that_sees_it(tiny_tokenizer, tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    folder = backbone_folder(tmp_path, "llama", tiny_tokenizer)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    backend = Tokenizer(BPE({c: i for i, c in enumerate(sorted(ByteLevel.alphabet()))}, []))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="!", model_max_length=64
    ).save_pretrained(folder)

    assert_same(folder, [" a ", "a", "a  ", "\ta\n"])

    embeddings = ours(folder).encode([" a ", "a"])
    assert np.abs(embeddings[0] - embeddings[1]).max() > 1e-3


def test_truncation_comes_after_normalize_and_is_not_normalised_again(minilm):
    model, other = ours(minilm), reference(minilm)

    for arguments in ({"truncate_dim": 20}, {"truncate_dim": 20, "normalize_embeddings": True}):
        actual = model.encode(QUICKSTART, **arguments)
        np.testing.assert_allclose(actual, other.encode(QUICKSTART, **arguments), atol=1e-5)

    assert (np.linalg.norm(model.encode(QUICKSTART, truncate_dim=20), axis=1) < 0.9).all()


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_quantised_embeddings_equal_those_of_the_reference(precision, tiny_bert):
    texts = [f"text number {i}" for i in range(120)]
    model, other = ours(tiny_bert), reference(tiny_bert)

    actual = model.encode(texts, precision=precision).astype(int)
    expected = other.encode(texts, precision=precision).astype(int)

    if "binary" in precision:
        np.testing.assert_array_equal(actual, expected)
    else:  # a value on the border of a step may fall on either side
        assert np.abs(actual - expected).max() <= 1
        assert (actual == expected).mean() > 0.99


def test_token_embeddings_equal_those_of_the_reference(tiny_bert):
    actual = ours(tiny_bert).encode(TEXTS, output_value="token_embeddings")
    expected = reference(tiny_bert).encode(TEXTS, output_value="token_embeddings")

    assert [len(tokens) for tokens in actual] == [len(tokens) for tokens in expected]
    for ours_LD, theirs_LD in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours_LD, theirs_LD, atol=1e-5)


def test_shapes_and_types_are_those_of_the_reference(tiny_bert):
    model, other = ours(tiny_bert), reference(tiny_bert)
    calls = [
        ("a", {}),
        (["a"], {}),
        ([], {}),
        ([], {"convert_to_tensor": True}),
        ("a", {"convert_to_tensor": True}),
        (["a", "b"], {"convert_to_tensor": True}),
        (np.array(["a", "b"]), {}),
        (np.array(["a", "b"], dtype=object), {}),
        (("a", "b"), {}),
    ]

    for inputs, arguments in calls:
        actual, expected = model.encode(inputs, **arguments), other.encode(inputs, **arguments)
        assert type(actual) is type(expected)
        assert actual.shape == expected.shape
    tensors = model.encode(["a", "b"], convert_to_numpy=False)
    assert [t.shape for t in tensors] == [
        t.shape for t in other.encode(["a", "b"], convert_to_numpy=False)
    ]


# --- Routes --------------------------------------------------------------------------------------


def router_folder(tmp_path: Path, backbone: Path, **options) -> Path:
    torch.manual_seed(4)
    router = reference_models.Router.for_query_document(
        [
            reference_models.Transformer(str(backbone)),
            reference_models.Pooling(32, "mean"),
            reference_models.Dense(32, 32),
        ],
        [reference_models.Transformer(str(backbone)), reference_models.Pooling(32, "cls")],
        **options,
    )
    model = sentence_transformers.SentenceTransformer(
        modules=[router, reference_models.Normalize()], device="cpu"
    )
    model.save_pretrained(str(tmp_path / "router"), create_model_card=False)
    return tmp_path / "router"


def assert_same_routes(folder: Path) -> None:
    model, other = ours(folder), reference(folder)
    for method in ("encode", "encode_query", "encode_document"):
        expected = getattr(other, method)(TEXTS)
        np.testing.assert_allclose(getattr(model, method)(TEXTS), expected, atol=1e-5)
    assert np.abs(model.encode_query(TEXTS) - model.encode_document(TEXTS)).max() > 1e-3


def test_router_saved_by_the_reference(tiny_bert, tmp_path):
    assert_same_routes(router_folder(tmp_path, tiny_bert))


def test_router_with_route_mappings(tiny_bert, tmp_path):
    folder = router_folder(tmp_path, tiny_bert)
    config = json.loads((folder / "router_config.json").read_text())
    config["parameters"]["route_mappings"] = {
        "('query', 'text')": "document",
        "('document', None)": "query",
    }
    write(folder, "router_config.json", config)

    assert_same_routes(folder)


def test_router_saved_by_us_is_loaded_by_the_reference(tiny_bert, tmp_path):
    folder = router_folder(tmp_path, tiny_bert, default_route="query")

    ours(folder).save_pretrained(tmp_path / "again")

    assert_same_routes(tmp_path / "again")


def test_a_legacy_asym_after_the_pooling_is_a_router(tiny_bert, tmp_path):
    torch.manual_seed(5)
    folder = old_folder(tmp_path, tiny_bert, old_pooling("mean"))
    types, structure = {}, {}
    for route in ("query", "document"):
        name = f"{route}_0_Dense"
        module = reference_models.Dense(32, 8)
        (folder / "2_Asym" / name).mkdir(parents=True)
        module.save(str(folder / "2_Asym" / name))
        types[name] = "sentence_transformers.models.Dense"
        structure[route] = [name]
    parameters = {"allow_empty_key": True}
    write(
        folder,
        "2_Asym/config.json",
        {"types": types, "structure": structure, "parameters": parameters},
    )
    entries = json.loads((folder / "modules.json").read_text())
    entries[2] |= {"path": "2_Asym", "type": "sentence_transformers.models.Asym"}
    write(folder, "modules.json", entries)

    model = ours(folder)
    by_hand = SentenceTransformer(modules=[*list(model)[:2], *model[2].sub_modules["query"]])

    assert isinstance(model[2], Router)
    np.testing.assert_array_equal(model.encode_query(TEXTS), by_hand.encode(TEXTS))
    expected = reference(folder)
    np.testing.assert_allclose(
        model.encode(TEXTS, task="document"), expected.encode(TEXTS, task="document"), atol=1e-5
    )


# --- Adapters ------------------------------------------------------------------------------------

# peft still reads an attribute of the model that transformers has renamed.
PEFT_USES_AN_OLD_NAME = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"


@pytest.fixture
def adapter(tiny_bert, tmp_path):
    """A LoRA adapter with random weights on the tiny BERT."""
    import peft  # slow to import

    torch.manual_seed(6)
    base = transformers.BertModel.from_pretrained(tiny_bert, add_pooling_layer=False)
    config = peft.LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    shutil.copy(tiny_bert / "tokenizer.json", tmp_path / "adapter")
    shutil.copy(tiny_bert / "tokenizer_config.json", tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.filterwarnings(PEFT_USES_AN_OLD_NAME)
def test_an_adapter_is_applied_to_its_base(adapter, tiny_bert):
    assert_same(adapter)

    assert np.abs(ours(adapter).encode(TEXTS) - ours(tiny_bert).encode(TEXTS)).max() > 1e-3


@pytest.mark.filterwarnings(PEFT_USES_AN_OLD_NAME)
def test_an_adapter_that_lacks_weights_is_an_error(adapter):
    weights = load_file(adapter / "adapter_model.safetensors")
    weights.popitem()
    save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelError, match="the adapter needs, so it would be partly untrained"):
        ours(adapter)
