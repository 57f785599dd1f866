import numpy as np
import pytest
from transformers import AutoTokenizer

from stx_core.inference.tokens import UNLIMITED, from_lists, pad, tokenize

TEXTS = ["the weather is lovely", "", "so sunny", "x " * 40]
PAIRS = [("the weather", "is lovely " * 20), ("long " * 30, "text"), ("a", "")]


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return AutoTokenizer.from_pretrained(tiny_tokenizer)


class Slow:
    """The same tokenizer without the fast path."""

    is_fast = False

    def __init__(self, fast):
        self.fast = fast
        self.model_input_names = fast.model_input_names

    def __call__(self, *args, **kwargs):
        return self.fast(*args, **kwargs)


def lists(tokens):
    return [
        tokens.ids[start:stop].tolist()
        for start, stop in zip(tokens.offsets, tokens.offsets[1:], strict=False)
    ]


@pytest.mark.parametrize("inputs", [TEXTS, PAIRS], ids=["texts", "pairs"])
@pytest.mark.parametrize("limit", [None, 12, UNLIMITED])
@pytest.mark.parametrize("kind", ["fast", "slow"])
def test_ids_are_those_of_the_tokenizer_itself(kind, limit, inputs, tokenizer):
    tokens = tokenize(tokenizer if kind == "fast" else Slow(tokenizer), inputs, limit)

    for row, item in enumerate(inputs):
        # In lists: transformers takes an empty second text for none when it is given alone.
        texts = [[item]] if isinstance(item, str) else [[item[0]], [item[1]]]
        full = tokenizer(*texts, truncation=False)["input_ids"][0]
        cut = limit == 12
        expected = tokenizer(
            *texts, truncation="longest_first" if cut else False, max_length=12 if cut else None
        )
        assert lists(tokens)[row] == expected["input_ids"][0]
        assert tokens.truncated[row] == (cut and len(full) > 12)
        start, stop = tokens.offsets[row : row + 2]
        assert tokens.type_ids[start:stop].tolist() == expected["token_type_ids"][0]


def test_truncation_that_a_tokenizer_file_carries_has_no_effect(tokenizer):
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=50)

    tokens = tokenize(tokenizer, TEXTS)

    assert tokens.lengths.tolist() == [6, 2, 4, 42]
    assert not tokens.truncated.any()


def test_no_inputs_give_no_tokens(tokenizer):
    tokens = tokenize(tokenizer, [])

    assert len(tokens) == 0
    assert tokens.ids.dtype == np.int32


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_goes_to_the_chosen_side_and_rows_keep_their_order(side):
    tokens = from_lists([[7, 8, 9], [5], [1, 2]], type_ids=[[0, 0, 1], [0], [0, 1]])

    padded = pad(tokens, np.array([2, 0]), pad_id=99, side=side)

    ids = {"right": [[1, 2, 99], [7, 8, 9]], "left": [[99, 1, 2], [7, 8, 9]]}[side]
    mask = {"right": [[1, 1, 0], [1, 1, 1]], "left": [[0, 1, 1], [1, 1, 1]]}[side]
    types = {"right": [[0, 1, 0], [0, 0, 1]], "left": [[0, 0, 1], [0, 0, 1]]}[side]
    assert padded["input_ids"].tolist() == ids
    assert padded["attention_mask"].tolist() == mask
    assert padded["token_type_ids"].tolist() == types


def test_a_model_without_segments_gets_no_type_ids():
    padded = pad(from_lists([[1], [2, 3]]), np.array([0, 1]), pad_id=0)

    assert set(padded) == {"input_ids", "attention_mask"}
