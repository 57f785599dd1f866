"""Every keyword that Sentence Transformers takes is taken here, by each name that it has."""

import inspect
import typing

import pytest
import sentence_transformers as reference
from sentence_transformers import util as reference_util
from sentence_transformers.base import modules as base_modules
from sentence_transformers.cross_encoder import modules as cross_modules
from sentence_transformers.sentence_transformer import modules as dense_modules
from sentence_transformers.sparse_encoder import modules as sparse_modules

import stx_core
from stx_core import models, util

MODELS = ("SentenceTransformer", "SparseEncoder", "CrossEncoder")
PACKAGES = (base_modules, dense_modules, sparse_modules, cross_modules)
MODULES = sorted(
    {name for package in PACKAGES for name in package.__all__ if name in models.__all__}
)

# Why a method or function of the reference is not here.
TRAINING = "trains a model"
ADAPTERS = "of PEFT: model.transformers_model has it"
PROCESSES = "several processes are the work of the jobs"
MULTI_VECTOR = "of multi-vector models"
INSIDE = "a helper of the reference's own code"
ABSENT = {
    **dict.fromkeys(("fit", "old_fit", "gradient_checkpointing_enable"), TRAINING),
    **dict.fromkeys(("smart_batching_collate", "smart_batching_collate_text_only"), TRAINING),
    **dict.fromkeys(
        (
            "active_adapter", "active_adapters", "add_adapter", "delete_adapter",
            "disable_adapters", "enable_adapters", "get_adapter_state_dict", "load_adapter",
            "set_adapter", "check_peft_compatible_model", "has_peft_compatible_model",
        ),
        ADAPTERS,
    ),
    **dict.fromkeys(
        ("start_multi_process_pool", "stop_multi_process_pool", "encode_multi_process"), PROCESSES
    ),
    "merge": "mergekit works on folders",
    "clear_placement_cache": "of Accelerate's hooks",
    "get_sentence_features": INSIDE,
    "model_card_data_class": INSIDE,
}  # fmt: skip
ABSENT_OF_MODULES = {
    **dict.fromkeys(
        (
            "load_config", "load_dir_path", "load_file_path", "load_torch_weights", "save_config",
            "save_torch_weights", "save_tokenizer", "on_model_ready", "infer_modalities",
            "infer_modalities_edge_cases", "infer_modalities_from_processor",
        ),
        INSIDE,
    ),
    **dict.fromkeys(("prepare", "top_k", "encode_pre_act", "decode", "LN"), TRAINING),
    "get_sentence_features": INSIDE,
    "from_distillation": "distils a model: model2vec has it",
    "from_text_file": "reads word2vec tables of old",
}  # fmt: skip
ABSENT_OF_UTIL = {
    **dict.fromkeys(
        ("all_gather", "all_gather_padded", "all_gather_with_grad", "check_teacher_targets",
         "disable_datasets_caching", "get_rank", "get_world_size", "is_dist_initialized",
         "is_training_available", "pairwise_angle_sim", "compute_count_vector"),
        TRAINING,
    ),
    **dict.fromkeys(
        ("cat_padded_token_embeddings", "stack_padded_token_embeddings", "maxsim",
         "maxsim_pairwise", "mean_maxsim", "mean_maxsim_pairwise", "repad_flattened_features"),
        MULTI_VECTOR,
    ),
    **dict.fromkeys(
        ("LoggingHandler", "append_to_last_row", "check_package_availability",
         "check_version_requirements", "disable_logging", "disabled_tqdm", "fullname", "http_get",
         "import_from_string", "import_module_class", "install_logger", "is_accelerate_available",
         "is_datasets_available", "is_sentence_transformer_model", "load_dir_path",
         "load_file_path", "resolve_ids", "save_to_hub_args_decorator", "similarity_fct_name"),
        INSIDE,
    ),
}  # fmt: skip

# Why a keyword of the reference is not taken.
NOT_TAKEN = {
    ("from_json", "token"): "reads local files",
    ("from_json", "cache_folder"): "reads local files",
    ("from_json", "revision"): "reads local files",
    ("from_json", "local_files_only"): "reads local files",
    ("load", "init_defaults"): INSIDE,
    ("load", "module_classes"): INSIDE,
    ("preprocess", "modality"): "texts only",
    ("MLMTransformer", "_from_auto_load"): INSIDE,
}

# Names of earlier versions that the reference's decorators still take.
OLDER = {
    "SentenceTransformer": {"tokenizer_kwargs", "use_auth_token"},
    "SparseEncoder": {"tokenizer_kwargs"},
    "CrossEncoder": {
        "model_name", "automodel_args", "tokenizer_args", "tokenizer_kwargs", "config_args",
        "cache_dir", "default_activation_function", "classifier_dropout",
    },
    "encode": {"sentences"},
    "encode_query": {"sentences"},
    "encode_document": {"sentences"},
    "predict": {"sentences", "activation_fct", "num_workers"},
    "rank": {
        "activation_fct", "num_workers", "convert_to_numpy", "convert_to_tensor", "apply_softmax",
    },
    "save_to_hub": {"repo_name"},
    "Transformer": {"model_args", "tokenizer_args", "config_args", "cache_dir"},
    "Pooling": {
        "word_embedding_dimension", "pooling_mode_cls_token", "pooling_mode_max_tokens",
        "pooling_mode_mean_tokens", "pooling_mode_mean_sqrt_len_tokens",
        "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken",
    },
    "SpladePooling": {"word_embedding_dimension"},
    "LSTM": {"word_embedding_dimension"},
    "CNN": {"in_word_embedding_dimension"},
    "WeightedLayerPooling": {"word_embedding_dimension"},
}  # fmt: skip


def keywords(function):
    """Names that a function takes: its own, those of its options, and older ones."""
    names = set(getattr(function, "older_names", ()))
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            continue
        if parameter.kind is not parameter.VAR_KEYWORD:
            names.add(name)
        elif typing.get_origin(parameter.annotation) is typing.Unpack:
            names |= set(typing.get_args(parameter.annotation)[0].__annotations__)
    return names - {"self", "cls"}


def public(cls):
    """Names that a class of the reference defines itself, or through the reference's bases."""
    own = [base for base in cls.__mro__ if base.__module__.startswith("sentence_transformers")]
    return sorted({name for base in own for name in vars(base) if not name.startswith("_")})


def missing(name, theirs, ours):
    wanted = keywords(theirs) | OLDER.get(name, set())
    return sorted(key for key in wanted - keywords(ours) if (name, key) not in NOT_TAKEN)


def methods(cls_pairs, absent):
    for label, theirs, ours in cls_pairs:
        for name in public(theirs):
            if name not in absent:
                yield pytest.param(theirs, ours, name, id=f"{label}.{name}")


MODEL_PAIRS = [(name, getattr(reference, name), getattr(stx_core, name)) for name in MODELS]
MODULE_PAIRS = [
    (name, next(getattr(p, name) for p in PACKAGES if hasattr(p, name)), getattr(models, name))
    for name in MODULES
]
# What modules of the reference have for their own files, and we by other means.
_FILES = {
    "config_file_name", "config_key_renames", "config_keys", "forward_kwargs", "save_in_root",
    "query_expansion", "unpad_inputs", "modalities", "tokenizer", "max_seq_length",
    "get_config_dict",
}  # fmt: skip


@pytest.mark.parametrize(
    ("theirs", "ours", "name"),
    [
        *methods(MODEL_PAIRS, ABSENT),
        *methods(MODULE_PAIRS, ABSENT_OF_MODULES | dict.fromkeys(_FILES)),
    ],
)
def test_each_public_name_is_here_and_takes_the_same_keywords(theirs, ours, name):
    assert hasattr(ours, name), f"{ours.__name__} has no {name}"
    static = inspect.getattr_static(theirs, name)
    if isinstance(static, property) or not callable(getattr(theirs, name)):
        return
    if name in ("forward", "tokenize") and ours.__name__ not in MODELS:
        return  # the first argument by position
    assert missing(name, getattr(theirs, name), getattr(ours, name)) == []


@pytest.mark.parametrize(("name", "theirs", "ours"), [*MODEL_PAIRS, *MODULE_PAIRS])
def test_each_constructor_takes_the_same_keywords(name, theirs, ours):
    assert missing(name, theirs.__init__, ours.__init__) == []


UTIL = {name for name in reference_util.__all__ if name[0].islower() or name in util.__all__}


@pytest.mark.parametrize("name", sorted(UTIL - set(ABSENT_OF_UTIL)))
def test_each_function_of_util_is_here_and_takes_the_same_keywords(name):
    theirs, ours = getattr(reference_util, name), getattr(util, name)

    if not inspect.isclass(theirs):
        assert missing(name, theirs, ours) == []


def test_no_name_is_listed_as_absent_that_is_here():
    here = {name for name in ABSENT for _, _, ours in MODEL_PAIRS if hasattr(ours, name)}
    assert here == set()
    assert [name for name in ABSENT_OF_UTIL if hasattr(util, name)] == []
