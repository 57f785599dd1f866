import numpy as np
import pytest
import torch

from stx_core.errors import InputError
from stx_core.inference.tokens import from_lists
from stx_core.models.modules.bags import bag_rows, collate_bags, texts_with_prompt


def test_bags_follow_the_order_of_the_chosen_rows_and_keep_empty_ones():
    tokens = from_lists([[1, 2], [], [3], [4, 5, 6]])

    features = collate_bags(tokens, np.array([3, 1, 0]))

    assert features["input_ids"].tolist() == [4, 5, 6, 1, 2]
    assert features["offsets"].tolist() == [0, 3, 3]
    assert features["input_ids"].dtype == features["offsets"].dtype == torch.int64


def test_every_flat_token_knows_its_row():
    rows = bag_rows(torch.arange(5), torch.tensor([0, 0, 3, 5]))

    assert rows.tolist() == [1, 1, 1, 2, 2]


def test_the_prompt_is_put_before_each_text_without_a_separator():
    assert texts_with_prompt(["a", ""], "query:") == ["query:a", "query:"]


@pytest.mark.parametrize("bad", [None, 3, ("query", "document")])
def test_non_string_input_is_refused_with_its_row(bad):
    with pytest.raises(InputError, match=r"input 1 is .*reads str only"):
        texts_with_prompt(["fine", bad], "")
