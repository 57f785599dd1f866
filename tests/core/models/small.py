"""Small models with random weights, made in a moment."""

import copy
from functools import cache

import torch
import transformers

from stx_core.models.cross_encoder import CrossEncoder
from stx_core.models.modules.dense import Dense
from stx_core.models.modules.pooling import Pooling
from stx_core.models.modules.splade_pooling import SpladePooling
from stx_core.models.modules.transformer import Transformer
from stx_core.models.sentence_transformer import SentenceTransformer
from stx_core.models.sparse_encoder import SparseEncoder

WIDTH = 32
TEXTS = ["a b c d e f g", "h", "i j a b a c d a b c d e f g h i j k l m", "a b", "k"] * 3
PAIRS = list(zip(TEXTS, TEXTS[::-1], strict=True))
KINDS = ["dense", "mpnet", "sparse", "cross"]


@cache
def tokenizer():
    letters = [*"abcdefghijklmnopqrstuvwxyz", *"ABCDE"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    vocab = {word: i for i, word in enumerate(words)}
    return transformers.BertTokenizer(vocab=vocab, do_lower_case=False, model_max_length=60)


@cache
def backbone(name, head="Model"):
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"vocab_size": 40, "intermediate_size": 64, "initializer_range": 0.3}
    config = getattr(transformers, f"{name}Config")(
        **sizes, **more, max_position_embeddings=64, pad_token_id=0, num_labels=1
    )
    return getattr(transformers, f"{name}{head}")(config).eval()


def model_of(kind):
    """A new model of a kind, the same weights every time."""
    name, head, task = {
        "dense": ("Bert", "Model", "feature-extraction"),
        "mpnet": ("MPNet", "Model", "feature-extraction"),
        "sparse": ("Bert", "ForMaskedLM", "fill-mask"),
        "cross": ("Bert", "ForSequenceClassification", "sequence-classification"),
    }[kind]
    first = Transformer(
        copy.deepcopy(backbone(name, head)), copy.deepcopy(tokenizer()), transformer_task=task
    )
    if kind == "sparse":
        return SparseEncoder(modules=[first, SpladePooling()], device="cpu")
    if kind == "cross":
        return CrossEncoder(modules=[first], device="cpu")
    torch.manual_seed(1)
    return SentenceTransformer(
        modules=[first, Pooling(WIDTH), Dense(WIDTH, 16)], device="cpu", prompts={"p": "c d "}
    )


def result(model, texts=TEXTS, **options):
    """What a model gives for texts, or for these in pairs: (N, ...) float32."""
    if isinstance(model, CrossEncoder):
        pairs = list(zip(texts, texts[::-1], strict=True))
        return torch.from_numpy(model.predict(pairs, **options))
    if isinstance(model, SparseEncoder):
        return model.encode(texts, convert_to_sparse_tensor=False, **options)
    return model.encode(texts, convert_to_tensor=True, **options)


def assert_close(one, other):
    torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)
