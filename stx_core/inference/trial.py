"""Trial of a model: can it run packed? It is tried both ways on a few made-up inputs."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from stx_core.inference.encode import is_out_of_memory
from stx_core.inference.tokens import Tokens, from_lists

# Inputs of the trial, in tokens: short ones, so that a trial costs little, of equal and of
# different lengths.
_LENGTHS = (23, 12, 12, 7, 3, 1)

# Difference of outputs, as a share of how much they differ from input to input. Attention across
# inputs, or wrong positions, give about 1.
_ALLOWED = {torch.float64: 1e-3, torch.float32: 1e-3}
_ALLOWED_HALF = 0.25

# Spread of outputs, as a share of them, that says nothing about how they came about.
_NOTHING = 1e-6

Run = Callable[[], torch.Tensor]


def trial_tokens(vocabulary: int, special: Sequence[int], longest: int | None) -> Tokens:
    """Inputs for a trial: ordinary tokens of the vocabulary, the same ones every time."""
    rng = np.random.default_rng(0)
    usual = np.setdiff1d(np.arange(vocabulary), special)
    lengths = [min(length, longest or length) for length in _LENGTHS]
    ids = [rng.choice(usual, length).tolist() for length in lengths]
    return from_lists(ids, type_ids=[[0] * length for length in lengths])


def why_not_packed(packed: Run, padded: Run) -> str | None:
    """None if a model gives the same packed as padded, else the reason.

    Args:
        packed: runs `trial_tokens` packed, and gives the outputs, (B, D).
        padded: runs them padded.
    """
    reference = padded()
    expected = reference.double()
    try:
        output = packed().double()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        # Whatever a backbone of any kind does with a batch that it was not written for.
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
    spread = float((expected - expected.mean(0)).norm())
    if spread <= _NOTHING * float(expected.norm()):
        return "results do not depend on the text"
    same_shape = output.shape == expected.shape
    differ = float((output - expected).norm()) / spread if same_shape else float("inf")
    allowed = _ALLOWED.get(reference.dtype, _ALLOWED_HALF)
    return None if differ <= allowed else f"results differ by {differ:.2g} of their spread"
