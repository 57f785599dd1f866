import logging

import numpy as np
import pytest
import torch

from stx_core.errors import InputError
from stx_core.inference.encode import default_token_budget, is_out_of_memory, run_batches


def memory_of(limit: int, lengths: np.ndarray, calls: list[list[int]]):
    """A forward pass that runs out of memory above `limit` padded tokens."""

    def forward(rows: np.ndarray) -> np.ndarray:
        calls.append(rows.tolist())
        if len(rows) * lengths[rows].max() > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return lengths[rows] * 10

    return forward


def test_all_rows_come_once_with_their_own_output():
    lengths = np.array([4, 1, 7, 2, 7, 3])

    results = list(run_batches(lengths, lambda rows: lengths[rows] * 10, token_budget=14))

    found = {
        int(row): int(out) for rows, outs in results for row, out in zip(rows, outs, strict=True)
    }
    assert found == {row: 10 * length for row, length in enumerate(lengths.tolist())}


def test_a_batch_without_memory_is_split_and_nothing_is_lost(caplog):
    lengths = np.array([8, 8, 8, 8, 2, 2, 2, 2])
    calls: list[list[int]] = []

    with caplog.at_level(logging.WARNING):
        results = list(run_batches(lengths, memory_of(16, lengths, calls), token_budget=32))

    assert calls == [[0, 1, 2, 3], [0, 1], [2, 3], [4, 5, 6, 7]]
    assert sorted(int(row) for rows, _ in results for row in rows) == list(range(8))
    assert "out of memory" in caplog.text


def test_short_texts_still_share_batches_after_two_long_ones_ran_out_of_memory():
    lengths = np.array([100, 100, *[1] * 50])
    calls: list[list[int]] = []

    list(run_batches(lengths, memory_of(100, lengths, calls), token_budget=200))

    assert calls == [[0, 1], [0], [1], list(range(2, 52))]


def test_an_input_that_fails_alone_is_reported_and_the_rest_goes_on():
    lengths = np.array([50, 3, 3])
    calls: list[list[int]] = []

    results = list(run_batches(lengths, memory_of(10, lengths, calls), token_budget=100))

    (failed_rows, error), (rows, _) = results
    assert failed_rows.tolist() == [0]
    assert isinstance(error, InputError)
    assert "50 tokens" in str(error)
    assert rows.tolist() == [1, 2]


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def forward(rows: np.ndarray) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        list(run_batches(np.array([1]), forward, token_budget=1))


def test_progress_counts_each_input_once():
    lengths = np.array([9, 9, 1])
    counts: list[int] = []
    calls: list[list[int]] = []

    list(
        run_batches(lengths, memory_of(9, lengths, calls), token_budget=18, progress=counts.append)
    )

    assert sum(counts) == 3


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("expected scalar type Half"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error, expected):
    assert is_out_of_memory(error) is expected


def test_the_allocator_of_the_cpu_raises_what_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55, dtype=torch.uint8)

    assert is_out_of_memory(caught.value)


def test_an_unknown_device_has_the_budget_of_the_cpu():
    assert default_token_budget(torch.device("mps")) == default_token_budget(torch.device("cpu"))
