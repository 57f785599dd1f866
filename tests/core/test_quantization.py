import logging

import numpy as np
import pytest
import torch

from stx_core.quantization import quantize_embeddings

ROWS = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)


def test_int8_floors_then_clips_then_shifts():
    ranges = np.array([[0.0], [255.0]], np.float32)
    values = np.array([[0.0], [0.9], [1.0], [127.99], [255.0], [300.0], [-7.0]], np.float32)

    unsigned = quantize_embeddings(values, "uint8", ranges)
    signed = quantize_embeddings(values, "int8", ranges)

    assert unsigned.ravel().tolist() == [0, 0, 1, 127, 255, 255, 0]
    assert signed.ravel().tolist() == [-128, -128, -127, -1, 127, 127, -128]
    assert (unsigned.dtype, signed.dtype) == (np.uint8, np.int8)


def test_signs_are_packed_row_by_row_and_binary_is_128_lower():
    # 9 dimensions: the second byte of each row holds one bit and seven zeros.
    rows = np.array([[1, -1, 0, 1, 1, -1, -1, 1, 1], [-1] * 8 + [1]], np.float32)

    unsigned = quantize_embeddings(rows, "ubinary")
    signed = quantize_embeddings(rows, "binary")

    assert unsigned.tolist() == [[0b10011001, 0b10000000], [0, 0b10000000]]
    assert signed.tolist() == [[0b10011001 - 128, 0], [-128, 0]]
    assert (unsigned.dtype, signed.dtype) == (np.uint8, np.int8)


def test_ranges_come_from_the_call_unless_given(caplog):
    first, second = ROWS[:100], ROWS[100:] * 3
    ranges = np.stack([ROWS.min(axis=0), ROWS.max(axis=0)])

    own_ranges = np.concatenate([quantize_embeddings(part, "int8") for part in (first, second)])
    shared = np.concatenate([quantize_embeddings(part, "int8", ranges) for part in (first, second)])
    together = quantize_embeddings(np.concatenate([first, second]), "int8", ranges)

    assert np.array_equal(shared, together)
    assert not np.array_equal(own_ranges, together)


def test_given_ranges_win_over_calibration_which_wins_over_the_data():
    ranges = np.array([[0.0], [255.0]], np.float32)
    calibration = np.array([[0.0], [510.0]], np.float32)
    values = np.array([[100.0], [200.0]], np.float32)

    assert quantize_embeddings(values, "uint8", ranges, calibration).tolist() == [[100], [200]]
    assert quantize_embeddings(values, "uint8", None, calibration).tolist() == [[50], [100]]
    assert quantize_embeddings(values, "uint8").tolist() == [[0], [255]]


def test_a_dimension_without_spread_maps_to_its_lowest_step():
    assert quantize_embeddings(np.full((3, 1), 0.5, np.float32), "uint8").tolist() == [[0]] * 3


@pytest.mark.parametrize(("n_rows", "warns"), [(99, True), (100, False)])
def test_few_rows_for_ranges_are_warned_about(n_rows, warns, caplog):
    with caplog.at_level(logging.WARNING):
        quantize_embeddings(ROWS[:n_rows], "int8")

    assert (f"come from only {n_rows} embeddings" in caplog.text) is warns


def test_calibration_is_trusted_without_a_warning(caplog):
    quantize_embeddings(ROWS[:5], "int8", calibration_embeddings=ROWS[5:20])

    assert caplog.text == ""


@pytest.mark.parametrize("single", [ROWS[0], ROWS[:1]])
def test_ranges_of_a_single_embedding_are_refused(single):
    with pytest.raises(ValueError, match="int8 ranges cannot come from a single embedding"):
        quantize_embeddings(single, "int8")


def test_a_single_embedding_with_ranges_stays_a_vector():
    ranges = np.stack([ROWS.min(axis=0), ROWS.max(axis=0)])

    assert quantize_embeddings(ROWS[0], "int8", ranges).shape == (5,)


def test_integers_are_refused_as_quantised_already():
    with pytest.raises(ValueError, match="int8, quantised already"):
        quantize_embeddings(ROWS.astype(np.int8), "binary")


def test_an_unknown_precision_lists_the_known_ones():
    with pytest.raises(ValueError, match="'int4'; choose one of float32, int8"):
        quantize_embeddings(ROWS, "int4")


def test_ranges_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 4\), the embeddings need \(2, 5\)"):
        quantize_embeddings(ROWS, "int8", np.zeros((2, 4), np.float32))


def test_tensors_and_lists_are_accepted():
    expected = quantize_embeddings(ROWS, "int8")

    assert np.array_equal(quantize_embeddings(torch.tensor(ROWS), "int8"), expected)
    assert np.array_equal(quantize_embeddings(list(ROWS), "int8"), expected)
    assert np.array_equal(quantize_embeddings(list(torch.tensor(ROWS)), "int8"), expected)
    assert quantize_embeddings(torch.tensor(ROWS).bfloat16(), "float32").dtype == np.float32


def test_a_list_of_matrices_shares_its_ranges():
    matrices = [ROWS[:30], ROWS[30:31], ROWS[31:]]

    parts = quantize_embeddings(matrices, "int8")

    assert [len(part) for part in parts] == [30, 1, 169]
    assert np.array_equal(np.concatenate(parts), quantize_embeddings(ROWS, "int8"))


def test_a_list_of_matrices_takes_given_calibration():
    parts = quantize_embeddings([ROWS[:1], ROWS[1:2]], "uint8", calibration_embeddings=ROWS)

    assert np.array_equal(
        np.concatenate(parts),
        quantize_embeddings(ROWS[:2], "uint8", calibration_embeddings=ROWS),
    )


@pytest.mark.parametrize(
    ("precision", "width", "dtype"),
    [("float32", 9, np.float32), ("int8", 9, np.int8), ("uint8", 9, np.uint8)]
    + [("binary", 2, np.int8), ("ubinary", 2, np.uint8)],
)
def test_no_rows_give_an_empty_matrix_of_the_right_width(precision, width, dtype):
    empty = quantize_embeddings(np.empty((0, 9), np.float32), precision)

    assert empty.shape == (0, width)
    assert empty.dtype == dtype
    assert quantize_embeddings([], precision) == []


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
def test_embeddings_of_no_texts_stay_empty(precision):
    for nothing in (np.array([]), torch.tensor([])):
        assert quantize_embeddings(nothing, precision).shape == (0,)


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_rows_that_are_not_finite_have_no_steps(precision):
    rows = np.eye(3)
    rows[1, 2] = np.nan

    with pytest.raises(ValueError, match="row 1 of the embeddings holds NaN"):
        quantize_embeddings(rows, precision)
