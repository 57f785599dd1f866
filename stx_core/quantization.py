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
    check_choice("precision", precision, get_args(Precision))
    if isinstance(embeddings, Tensor | np.ndarray):
        return _quantize(_as_array(embeddings), precision, ranges, calibration_embeddings)
    arrays = [_as_array(item) for item in embeddings]
    if arrays and arrays[0].ndim != 2:
        return _quantize(np.array(arrays), precision, ranges, calibration_embeddings)
    if ranges is None and precision.endswith("int8"):
        rows = np.concatenate(arrays) if arrays else np.empty((0, 0))
        if calibration_embeddings is not None or len(rows):
            ranges = _ranges_of(rows, precision, calibration_embeddings)
    return [_quantize(array, precision, ranges, None) for array in arrays]


def _as_array(embeddings: Any) -> np.ndarray:  # noqa: ANN401  (anything numpy can read)
    if not isinstance(embeddings, Tensor):
        return np.asarray(embeddings)
    # numpy has no bfloat16.
    values = embeddings.float() if embeddings.dtype == bfloat16 else embeddings
    array: np.ndarray = values.numpy(force=True)
    return array


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
        packed = np.packbits(embeddings > 0, axis=-1)
        return packed if precision == "ubinary" else (packed.astype(np.int16) - 128).astype(np.int8)
    if len(embeddings) == 0:
        return np.empty(embeddings.shape, precision)
    if not np.isfinite(embeddings).all():
        row = int((~np.isfinite(np.atleast_2d(embeddings))).any(axis=1).argmax())
        raise ValueError(f"row {row} of the embeddings holds NaN or infinity; embed its text again")
    if ranges is None:
        ranges = _ranges_of(embeddings, precision, calibration_embeddings)
    expected = (2, embeddings.shape[-1])
    if ranges.shape != expected:
        raise ValueError(f"ranges have shape {ranges.shape}, the embeddings need {expected}")
    # Single precision, like the reference: double would put values on a step's edge elsewhere.
    low, high = ranges.astype(np.float32, copy=False)
    step = (high - low) / 255
    step = np.where(step == 0, 1, step)
    steps: np.ndarray = np.clip(np.floor((embeddings - low) / step), 0, 255)
    return steps.astype(np.uint8) if precision == "uint8" else (steps - 128).astype(np.int8)


def _ranges_of(
    embeddings: np.ndarray, precision: str, calibration_embeddings: np.ndarray | None
) -> np.ndarray:
    """(2, D) lowest and highest values: of the calibration embeddings, else of these."""
    if calibration_embeddings is not None:
        embeddings = calibration_embeddings
    elif embeddings.ndim == 1 or len(embeddings) == 1:
        raise ValueError(
            f"{precision} ranges cannot come from a single embedding; "
            "pass ranges or calibration_embeddings of a representative set"
        )
    elif len(embeddings) < _ENOUGH_ROWS:
        logger.warning(
            "%s ranges come from only %d embeddings; pass ranges or calibration_embeddings",
            precision,
            len(embeddings),
        )
    return np.stack([np.min(embeddings, axis=0), np.max(embeddings, axis=0)])
