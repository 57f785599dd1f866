"""Float embeddings to int8 or to single bits."""

import logging
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor, bfloat16

from stx_core.choices import check_choice

logger = logging.getLogger(__name__)

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]

# Fewer rows than this do not show how wide each dimension spreads.
_ENOUGH_ROWS = 100


def quantize_embeddings(
    embeddings: Tensor | np.ndarray | Sequence[Any],
    precision: Precision,
    ranges: np.ndarray | None = None,
    calibration_embeddings: np.ndarray | None = None,
) -> np.ndarray | list[np.ndarray]:
    """Quantise embeddings, bit for bit as Sentence Transformers 6.2 does.

    int8 and uint8 cut the range of each dimension into 256 equal steps; values outside fall into
    the first or last. The ranges are `ranges`, else those of `calibration_embeddings`, else those
    of the embeddings themselves; in the last case **two calls are not comparable**. binary and
    ubinary keep the sign: bit 1 for values above zero, first dimension in the highest bit, each row
    filled up with zero bits to whole bytes.

    Args:
        embeddings: (N, D) or (D,) floats; or a list of (tokens, D) matrices, which share one range.
        precision: what to quantise to.
        ranges: (2, D), lowest and highest value of each dimension, for int8 and uint8.
        calibration_embeddings: (C, D) floats to take the ranges from.

    Returns:
        (N, D) float32, int8 or uint8; for binary (N, ceil(D / 8)) int8, the packed byte minus 128,
        for ubinary the same bytes as uint8. A list for a list of matrices.

    Raises:
        ValueError: the embeddings are integers, the precision is unknown, the ranges do not fit,
            a value for int8 or uint8 is not finite, or ranges would have to come from a single
            embedding.
    """
    _check_precision(precision)
    arrays = _as_arrays(embeddings)
    if isinstance(arrays, list):
        ranges = _shared_ranges(arrays, precision, ranges, calibration_embeddings)
        return [_quantize(array, precision, ranges, None) for array in arrays]
    return _quantize(arrays, precision, ranges, calibration_embeddings)


def _check_precision(precision: str) -> None:
    check_choice("precision", precision, get_args(Precision))


def _as_arrays(
    embeddings: Tensor | np.ndarray | Sequence[Any],
) -> np.ndarray | list[np.ndarray]:
    """One array; or, for a list of matrices or an empty list, a list of arrays."""
    if isinstance(embeddings, Tensor | np.ndarray):
        return _as_array(embeddings)
    rows = [_as_array(item) for item in embeddings]
    return rows if not rows or rows[0].ndim == 2 else np.array(rows)


def _as_array(embeddings: Any) -> np.ndarray:  # noqa: ANN401  (anything numpy can read)
    if not isinstance(embeddings, Tensor):
        return np.asarray(embeddings)
    # numpy has no bfloat16.
    known = embeddings.float() if embeddings.dtype == bfloat16 else embeddings
    array: np.ndarray = known.numpy(force=True)
    return array


def _shared_ranges(
    arrays: list[np.ndarray],
    precision: str,
    ranges: np.ndarray | None,
    calibration_embeddings: np.ndarray | None,
) -> np.ndarray | None:
    if ranges is not None or not precision.endswith("int8"):
        return ranges
    if calibration_embeddings is not None:
        return _min_max(calibration_embeddings)
    rows = np.concatenate(arrays) if arrays else np.empty((0, 0))
    return _ranges_of(rows, precision) if len(rows) else None


def _quantize(
    embeddings: np.ndarray,
    precision: str,
    ranges: np.ndarray | None,
    calibration_embeddings: np.ndarray | None,
) -> np.ndarray:
    if embeddings.dtype in (np.int8, np.uint8):
        raise ValueError(f"embeddings are {embeddings.dtype}, quantised already; give float ones")
    if precision == "float32":
        return embeddings.astype(np.float32)
    if precision.endswith("binary"):
        return _pack_signs(embeddings, precision)
    if len(embeddings) == 0:
        return np.empty(embeddings.shape, precision)
    if not np.isfinite(embeddings).all():
        row = int((~np.isfinite(np.atleast_2d(embeddings))).any(axis=1).argmax())
        raise ValueError(f"row {row} of the embeddings holds NaN or infinity; embed its text again")
    if ranges is None and calibration_embeddings is not None:
        ranges = _min_max(calibration_embeddings)
    elif ranges is None:
        ranges = _ranges_of(embeddings, precision)
    return _to_steps(embeddings, precision, ranges)


def _pack_signs(embeddings: np.ndarray, precision: str) -> np.ndarray:
    packed = np.packbits(embeddings > 0, axis=-1)
    if precision == "ubinary":
        return packed
    return (packed.astype(np.int16) - 128).astype(np.int8)


def _to_steps(embeddings: np.ndarray, precision: str, ranges: np.ndarray) -> np.ndarray:
    expected = (2, embeddings.shape[-1])
    if ranges.shape != expected:
        raise ValueError(f"ranges have shape {ranges.shape}, the embeddings need {expected}")
    # Single precision, like the reference: double would put values on a step's edge elsewhere.
    low, high = ranges.astype(np.float32, copy=False)
    step = (high - low) / 255
    step = np.where(step == 0, 1, step)
    steps: np.ndarray = np.clip(np.floor((embeddings - low) / step), 0, 255)
    return steps.astype(np.uint8) if precision == "uint8" else (steps - 128).astype(np.int8)


def _ranges_of(embeddings: np.ndarray, precision: str) -> np.ndarray:
    if embeddings.ndim == 1 or len(embeddings) == 1:
        raise ValueError(
            f"{precision} ranges cannot come from a single embedding; "
            "pass ranges or calibration_embeddings of a representative set"
        )
    if len(embeddings) < _ENOUGH_ROWS:
        logger.warning(
            "%s ranges come from only %d embeddings; pass ranges or calibration_embeddings",
            precision,
            len(embeddings),
        )
    return _min_max(embeddings)


def _min_max(embeddings: np.ndarray) -> np.ndarray:
    return np.stack([np.min(embeddings, axis=0), np.max(embeddings, axis=0)])
