"""Pooling against a brute-force loop over texts, padded on either side."""

import pytest
import torch

from stx_core.models.modules.pooling import Pooling

LENGTHS = [5, 1, 3]


def brute_force(tokens_LD: torch.Tensor, mode: str, skip: int) -> torch.Tensor:
    """Pool one text without padding, from its definition."""
    kept = tokens_LD[skip:]
    if len(kept) == 0:
        return torch.zeros(tokens_LD.shape[1]) if mode != "cls" else tokens_LD[0]
    weights = torch.arange(skip + 1, len(tokens_LD) + 1).float()[:, None]
    return {
        "cls": lambda: kept[0],
        "lasttoken": lambda: kept[-1],
        "max": lambda: kept.max(0).values,
        "mean": lambda: kept.mean(0),
        "mean_sqrt_len_tokens": lambda: kept.sum(0) / len(kept) ** 0.5,
        "weightedmean": lambda: (kept * weights).sum(0) / weights.sum(),
    }[mode]()


def padded(texts: list[torch.Tensor], side: str) -> dict:
    """Padding is noise: it must not show."""
    longest = max(map(len, texts))
    tokens = torch.randn(len(texts), longest, texts[0].shape[1]) * 100
    mask = torch.zeros(len(texts), longest, dtype=torch.int64)
    for row, text in enumerate(texts):
        where = slice(longest - len(text), None) if side == "left" else slice(0, len(text))
        tokens[row, where] = text
        mask[row, where] = 1
    return {"token_embeddings": tokens, "attention_mask": mask}


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
)
def test_padding_and_left_out_prompt_tokens_have_no_influence(mode, side, skip):
    torch.manual_seed(0)
    lengths = [length for length in LENGTHS if length > skip]
    texts = [torch.randn(length, 4) for length in lengths]
    features = padded(texts, side) | {"prompt_length": skip}

    pooled = Pooling(4, mode, include_prompt=False)(features)["sentence_embedding"]

    expected = torch.stack([brute_force(text, mode, skip) for text in texts])
    torch.testing.assert_close(pooled, expected)


def test_a_pooled_prompt_is_not_left_out():
    features = padded([torch.randn(3, 4)], "right")

    with_prompt = Pooling(4)(features | {"prompt_length": 2})["sentence_embedding"]

    torch.testing.assert_close(with_prompt, Pooling(4)(features)["sentence_embedding"])


def test_half_precision_is_summed_in_single_precision():
    # The sum is 100,000; float16 ends at 65,504.
    tokens = torch.full((1, 1000, 1), 100, dtype=torch.float16)
    features = {"token_embeddings": tokens, "attention_mask": torch.ones(1, 1000).long()}

    pooled = Pooling(1)(features)["sentence_embedding"]

    assert pooled.dtype == torch.float16
    assert pooled.item() == 100


def test_weights_of_words_replace_the_count_of_tokens():
    features = padded([torch.ones(3, 2)], "right") | {"token_weights_sum": torch.tensor([6.0])}

    pooled = Pooling(2)(features)["sentence_embedding"]

    torch.testing.assert_close(pooled, torch.full((1, 2), 0.5))


@pytest.mark.parametrize("mode", ["median", [], ["mean", "x"]])
def test_an_unknown_mode_is_refused(mode):
    with pytest.raises(ValueError, match="is unknown; modes are"):
        Pooling(4, mode)


# --- As others give it ---------------------------------------------------------------------------

LENGTHS = [4, 1, 3]


def padded_and_flattened(width=5):
    torch.manual_seed(0)
    rows = [torch.randn(length, width) for length in LENGTHS]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=9.0)
    mask = torch.arange(4) < torch.tensor(LENGTHS)[:, None]
    ends = torch.tensor([0, *LENGTHS]).cumsum(0).int()
    return (
        {"token_embeddings": padded, "attention_mask": mask.long()},
        {"token_embeddings": torch.cat(rows)[None], "cu_seq_lens_q": ends},
    )


@pytest.mark.parametrize("mode", Pooling.POOLING_MODES)
@pytest.mark.parametrize("prompt", [None, 1, torch.tensor(1), torch.tensor([1, 1, 1])])
def test_flattened_inputs_are_pooled_as_padded_ones(mode, prompt):
    pooling = Pooling(5, mode, include_prompt=prompt is None)
    padded, flattened = (
        pooling(features if prompt is None else features | {"prompt_length": prompt})
        for features in padded_and_flattened()
    )

    torch.testing.assert_close(padded["sentence_embedding"], flattened["sentence_embedding"])


def test_without_a_mask_all_tokens_count():
    features, _ = padded_and_flattened()
    tokens = features["token_embeddings"]

    pooled = Pooling(5)({"token_embeddings": tokens})["sentence_embedding"]

    torch.testing.assert_close(pooled, tokens.mean(1))


def test_a_given_cls_embedding_is_taken():
    features, _ = padded_and_flattened()

    pooled = Pooling(5, ("cls", "max"))(features | {"cls_token_embeddings": torch.ones(3, 5)})

    assert pooled["sentence_embedding"][:, :5].eq(1).all()


def test_flags_of_the_older_spelling_choose_modes():
    both = Pooling(
        word_embedding_dimension=5, pooling_mode_cls_token=True, pooling_mode_mean_tokens=True
    )

    assert list(both.pooling_mode) == ["cls", "mean"]
    assert both.get_embedding_dimension() == both.get_sentence_embedding_dimension() == 10
    assert Pooling(5, pooling_mode_mean_tokens=False).pooling_mode == "mean"
    assert Pooling(5, pooling_mode="max", pooling_mode_cls_token=True).pooling_mode == "max"
