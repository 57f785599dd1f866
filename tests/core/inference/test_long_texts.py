"""Texts made to slow a tokenizer down: a split that backtracks would not end within the limit."""

import pytest
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Split

# The pattern of Llama 3 and of most models after it.
LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    "BERT": BertPreTokenizer(),
    "GPT-2": ByteLevel(),
    "Llama": Split(Regex(LLAMA), "isolated"),
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    "unit",
    ["a", " ", "\n", " \n", "'", "\u0301", "1", "a" * 30 + "!", " a"],
    ids=["letter", "space", "line", "blank line", "quote", "accent", "digit", "words", "letters"],
)
def test_the_splits_of_published_models_are_linear_in_the_text(split, unit):
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, "[UNK]"))
    tokenizer.pre_tokenizer = SPLITS[split]
    text = (unit * 500_000)[:500_000] + "!"

    encoding = tokenizer.encode(text)

    assert max(stop for _, stop in encoding.offsets) == len(text)
