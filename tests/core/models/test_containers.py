"""Texts without tokens, among others."""

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from stx_core.models.modules.pooling import Pooling
from stx_core.models.modules.transformer import Transformer
from stx_core.models.modules.word_embeddings import WordEmbeddings
from stx_core.models.modules.word_tokenizers import WordTokenizer
from stx_core.models.sentence_transformer import SentenceTransformer

NEIGHBOURS = [[], ["a b c a b c"], ["a", "a b"], ["a"] * 8]


def gpt2(side):
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2, "c": 3, "<e>": 4}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<e>", pad_token="<e>", padding_side=side
    )
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=8, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=4, eos_token_id=4
    )
    return Transformer(transformers.GPT2Model(config).eval(), tokenizer)


def words(_):
    return WordEmbeddings(WordTokenizer(["a", "b", "c"], ()), torch.ones(3, 16))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("make", [gpt2, words])
def test_a_text_without_tokens_has_no_token_embeddings(make, side):
    model = SentenceTransformer(modules=[make(side), Pooling(16)], device="cpu")

    for others in NEIGHBOURS:
        tokens = model.encode(["", *others], output_value="token_embeddings")
        assert tokens[0].shape == (0, 16)
        if side == "right":
            assert [len(one) for one in tokens[1:]] == [len(text.split()) for text in others]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken", "weightedmean", "max"])
def test_the_embedding_of_a_text_without_tokens_does_not_depend_on_others(mode, side):
    model = SentenceTransformer(modules=[gpt2(side), Pooling(16, mode)], device="cpu")

    for others in NEIGHBOURS:
        found = model.encode(["", *others])[0]
        np.testing.assert_array_equal(found, np.full(16, -np.inf if mode == "max" else 0))
