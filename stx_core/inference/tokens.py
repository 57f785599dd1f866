"""Texts to token ids, kept ragged: exact lengths, no padding until a batch is made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from stx_core.inference.exclusive import exclusive_tokenizer

# Encodings are Python objects of some kilobytes; this many at a time bounds their memory.
_TEXTS_AT_ONCE = 4096

# tokenizer.model_max_length is 1e30 where nothing is known; no model reads this many tokens.
UNLIMITED = 10**9

Text = str
Pair = tuple[str, str]
# Of one input: ids, segment ids, and whether it was cut.
_Encoded = tuple[list[int], list[int], bool]


@dataclass(frozen=True)
class Tokens:
    """Token ids of N inputs, one after the other.

    Attributes:
        ids: (T,) int32.
        offsets: (N + 1,) int64; input i owns ``ids[offsets[i]:offsets[i + 1]]``.
        truncated: (N,) bool, the input had more tokens than the model reads.
        type_ids: (T,) int32 segment ids, or None where the model takes none.
        prompt_length: leading tokens that belong to the prompt, for models whose pooling leaves
            them out.
        task: what the inputs are ("query", "document"), for models that route by it.
    """

    ids: np.ndarray
    offsets: np.ndarray
    truncated: np.ndarray
    type_ids: np.ndarray | None = None
    prompt_length: int = 0
    task: str | None = None

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64, tokens per input, special tokens counted, after truncation."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1


def from_lists(
    ids: Sequence[Sequence[int]],
    truncated: Sequence[bool] | np.ndarray | None = None,
    type_ids: Sequence[Sequence[int]] | None = None,
) -> Tokens:
    """Build Tokens from one id list per input."""
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    total = int(offsets[-1])
    cut = np.zeros(len(ids), bool) if truncated is None else np.asarray(truncated, bool)
    flat, *types = (
        np.fromiter(chain.from_iterable(lists), np.int32, total)
        for lists in (ids, type_ids)
        if lists is not None
    )
    return Tokens(flat, offsets, cut, type_ids=types[0] if types else None)


def tokenize(
    tokenizer: Any,  # noqa: ANN401  (transformers has no common typed tokenizer interface)
    inputs: Sequence[Text] | Sequence[Pair],
    max_length: int | None = None,
    *,
    special_tokens: bool = True,
) -> Tokens:
    """Tokenise texts, or pairs of texts, with a transformers tokenizer.

    Truncation is "longest first" on the tokenizer's own side.
    Truncation and padding that a saved ``tokenizer.json`` carries have no effect, and stay as they
    were. Any number of threads may call this with one tokenizer.

    Args:
        tokenizer: a transformers tokenizer, fast or slow.
        inputs: N texts, or N pairs.
        max_length: tokens per input at most, special tokens counted; None or `UNLIMITED` for no
            limit.
        special_tokens: add those of the tokenizer.
    """
    limit = None if max_length is None or max_length >= UNLIMITED else max_length
    encode = _encode_fast if getattr(tokenizer, "is_fast", False) else _encode_slow
    encoded: list[_Encoded] = []
    for start in range(0, len(inputs), _TEXTS_AT_ONCE):
        batch = inputs[start : start + _TEXTS_AT_ONCE]
        with exclusive_tokenizer(tokenizer):
            encoded += encode(tokenizer, batch, limit, special_tokens=special_tokens)
    takes_types = "token_type_ids" in tokenizer.model_input_names
    return from_lists(
        [ids for ids, _, _ in encoded],
        [truncated for _, _, truncated in encoded],
        [type_ids for _, type_ids, _ in encoded] if takes_types else None,
    )


def _encode_fast(
    tokenizer: Any,  # noqa: ANN401
    inputs: Sequence[Text] | Sequence[Pair],
    limit: int | None,
    *,
    special_tokens: bool,
) -> Iterator[_Encoded]:
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    # Texts of pairs come again and again, a query with each of its documents: each once.
    pairs = [item for item in inputs if not isinstance(item, str)]
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    halves = dict(
        zip(texts, backend.encode_batch_fast(texts, add_special_tokens=False), strict=True)
    )
    if limit is not None:
        backend.enable_truncation(
            limit, strategy="longest_first", direction=tokenizer.truncation_side
        )
    encodings = (
        [
            backend.post_process(halves[first], halves[second], special_tokens)
            for first, second in pairs
        ]
        if pairs
        else backend.encode_batch_fast(list(inputs), add_special_tokens=special_tokens)
    )
    for encoding in encodings:
        yield encoding.ids, encoding.type_ids, bool(encoding.overflowing)


def _encode_slow(
    tokenizer: Any,  # noqa: ANN401
    inputs: Sequence[Text] | Sequence[Pair],
    limit: int | None,
    *,
    special_tokens: bool,
) -> Iterator[_Encoded]:
    for item in inputs:
        # Lists of one: transformers takes an empty second text for none when it is given alone.
        texts = [[item]] if isinstance(item, str) else [[item[0]], [item[1]]]
        options = {"add_special_tokens": special_tokens, "padding": False}
        full = tokenizer(*texts, truncation=False, verbose=False, **options)
        overlong = limit is not None and len(full["input_ids"][0]) > limit
        if overlong:
            full = tokenizer(*texts, truncation="longest_first", max_length=limit, **options)
        ids = full["input_ids"][0]
        types = full["token_type_ids"][0] if "token_type_ids" in full else [0] * len(ids)
        yield ids, types, overlong


def pad(
    tokens: Tokens, rows: np.ndarray, pad_id: int, side: str = "right", least: int = 0
) -> dict[str, np.ndarray]:
    """Pad the chosen inputs to the longest of them, and to `least` columns.

    Returns:
        ``input_ids`` and ``attention_mask``, (B, L) int64, and ``token_type_ids`` when the tokens
        have them; padding carries id `pad_id`, mask 0 and type 0.
    """
    lengths = tokens.lengths[rows]
    longest = int(lengths.max(initial=least))
    positions = np.arange(longest)
    real = (
        positions >= longest - lengths[:, None] if side == "left" else positions < lengths[:, None]
    )
    where = np.concatenate(
        [np.arange(tokens.offsets[row], tokens.offsets[row + 1]) for row in rows]
        or [np.empty(0, np.int64)]
    )
    padded = {"input_ids": np.full(real.shape, pad_id, np.int64)}
    padded["input_ids"][real] = tokens.ids[where]
    padded["attention_mask"] = real.astype(np.int64)
    if tokens.type_ids is not None:
        padded["token_type_ids"] = np.zeros(real.shape, np.int64)
        padded["token_type_ids"][real] = tokens.type_ids[where]
    return padded
