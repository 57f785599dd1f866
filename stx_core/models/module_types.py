"""The table of module types: which class a type string of a model folder means.

The whole string is looked up; nothing is imported by a name that a folder gives. Each class has
the spelling of Sentence Transformers up to 5.3, and the later one, under which it is saved. A
distribution that somebody installed may add strings, by an entry point each; a folder cannot.
"""

from stx_core.plugins import Registry

_BASE = "sentence_transformers.base.modules"
_DENSE = "sentence_transformers.sentence_transformer.modules"
_SPARSE = "sentence_transformers.sparse_encoder.modules"
_CROSS = "sentence_transformers.cross_encoder.modules"
_OLD = "sentence_transformers.models"
_OLD_SPARSE = "sentence_transformers.sparse_encoder.models"

CLASSES: dict[str, tuple[str, list[str]]] = {
    "Transformer": (
        "transformer",
        [
            # The oldest folders name the architecture; it is in config.json too.
            *(
                f"{_OLD}.{name}"
                for name in (
                    "Transformer",
                    "BERT",
                    "RoBERTa",
                    "DistilBERT",
                    "ALBERT",
                    "XLNet",
                    "XLMRoBERTa",
                    "CamemBERT",
                    "T5",
                )
            ),
            f"{_BASE}.transformer.Transformer",
        ],
    ),
    "MLMTransformer": (
        "transformer",
        [f"{_OLD_SPARSE}.MLMTransformer", f"{_SPARSE}.mlm_transformer.MLMTransformer"],
    ),
    "Pooling": ("pooling", [f"{_OLD}.Pooling", f"{_DENSE}.pooling.Pooling"]),
    "Normalize": (
        "normalize",
        [
            f"{_OLD}.Normalize",
            f"{_DENSE}.normalize.Normalize",  # 5.4 to 5.7
            f"{_BASE}.normalize.Normalize",
        ],
    ),
    "Dense": ("dense", [f"{_OLD}.Dense", f"{_BASE}.dense.Dense"]),
    "Router": ("router", [f"{_OLD}.Asym", f"{_OLD}.Router", f"{_BASE}.router.Router"]),
    "StaticEmbedding": (
        "static_embedding",
        [f"{_OLD}.StaticEmbedding", f"{_DENSE}.static_embedding.StaticEmbedding"],
    ),
    "WordEmbeddings": (
        "word_embeddings",
        [f"{_OLD}.WordEmbeddings", f"{_DENSE}.word_embeddings.WordEmbeddings"],
    ),
    "WordWeights": (
        "word_weights",
        [f"{_OLD}.WordWeights", f"{_DENSE}.word_weights.WordWeights"],
    ),
    "WeightedLayerPooling": (
        "weighted_layer_pooling",
        [f"{_OLD}.WeightedLayerPooling", f"{_DENSE}.weighted_layer_pooling.WeightedLayerPooling"],
    ),
    "BoW": ("bow", [f"{_OLD}.BoW", f"{_DENSE}.bow.BoW"]),
    "CNN": ("cnn", [f"{_OLD}.CNN", f"{_DENSE}.cnn.CNN"]),
    "LSTM": ("lstm", [f"{_OLD}.LSTM", f"{_DENSE}.lstm.LSTM"]),
    "LayerNorm": ("layer_norm", [f"{_OLD}.LayerNorm", f"{_DENSE}.layer_norm.LayerNorm"]),
    "Dropout": ("dropout", [f"{_OLD}.Dropout", f"{_DENSE}.dropout.Dropout"]),
    "SpladePooling": (
        "splade_pooling",
        [f"{_OLD_SPARSE}.SpladePooling", f"{_SPARSE}.splade_pooling.SpladePooling"],
    ),
    "SparseAutoEncoder": (
        "sparse_auto_encoder",
        [f"{_OLD_SPARSE}.SparseAutoEncoder", f"{_SPARSE}.sparse_auto_encoder.SparseAutoEncoder"],
    ),
    "SparseStaticEmbedding": (
        "sparse_static_embedding",
        [
            f"{_OLD_SPARSE}.SparseStaticEmbedding",
            f"{_SPARSE}.sparse_static_embedding.SparseStaticEmbedding",
        ],
    ),
    "LogitScore": ("logit_score", [f"{_CROSS}.logit_score.LogitScore"]),
}
"""Class -> its file in `modules`, and all spellings; the last one is written."""

TYPES: dict[str, str] = {
    spelling: name for name, (_, spellings) in CLASSES.items() for spelling in spellings
}
"""Type string of a model folder -> name of our class."""

MODULE_TYPES: Registry[type] = Registry(
    "stx.module_types",
    "module type",
    {
        spelling: f"stx_core.models.modules.{file}:{name}"
        for name, (file, spellings) in CLASSES.items()
        for spelling in spellings
    },
    expected=type,
)
