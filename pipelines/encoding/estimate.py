"""The cost of a run, measured: each encoder on a sample of the corpus, in a process of its own.

A process of its own keeps model and torch out of the driver, which holds plan and counts only.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stx.pipelines.running.python_child import ChildDied, call
from stx_core.errors import ModelError

if TYPE_CHECKING:
    from stx.pipelines.models.settings import EncoderSettings

logger = logging.getLogger(__name__)

# Enough texts for a mean token count within some percent, few enough for seconds on one core.
SAMPLE_ROWS = 256
_TIMED_TOKENS = 4096
# A second measurement tells how steady the first one is; a slow model is not run again for it.
_TIMED_CALLS, _TIMED_S = 3, 1.0


@dataclass(frozen=True)
class EncoderProbe:
    """Measures of an encoder that was loaded and ran a sample.

    Attributes:
        dim: width of dense vectors; None for sparse ones.
        similarity: name of the model's similarity function.
        max_seq_length: tokens the model reads; None without a limit.
        device: where it ran.
        tokens_per_row: mean over the sample, after truncation.
        truncated_share: share of the sample that was cut.
        tokens_per_second: measured where it ran, on an actor's cores; None without a sample.
        tokenised_per_second: tokens that these cores make of texts; None without a sample.
        why_padded: None where batches are packed, or no module pads them.
        tokens_per_row_error: standard error of `tokens_per_row`.
        speed_range: lowest and highest `tokens_per_second` of several measurements; None where
            there was one.
    """

    dim: int | None
    similarity: str
    max_seq_length: int | None
    device: str
    tokens_per_row: float
    truncated_share: float
    tokens_per_second: float | None
    tokenised_per_second: float | None = None
    why_padded: str | None = None
    tokens_per_row_error: float = 0.0
    speed_range: tuple[float, float] | None = None

    @property
    def seconds_per_row(self) -> tuple[float, float]:
        """From and to; 0 without a sample."""
        if not self.tokens_per_second:
            return 0.0, 0.0
        slow, fast = self.speed_range or (self.tokens_per_second,) * 2
        error = 2 * self.tokens_per_row_error
        return max(0.0, self.tokens_per_row - error) / fast, (self.tokens_per_row + error) / slow


def probe_encoders(
    encoders: Mapping[str, "EncoderSettings"],
    texts: Sequence[str],
    threads: int | None,
    stall_timeout_s: float | None,
) -> dict[str, EncoderProbe]:
    """Load each encoder in a fresh process, run the sample with `probe_here`, and end the process.

    A text that kills or hangs the model may be in the sample. The run finds out which one it is;
    here it only costs the estimate.

    Args:
        encoders: settings by output name.
        texts: the sample.
        threads: cores to use.
        stall_timeout_s: how long to wait for the sample; None for ever.

    Raises:
        ModelError: a model cannot be loaded; better here than in every actor.
    """
    try:
        return call(probe_here, encoders, list(texts), threads, timeout_s=stall_timeout_s)
    except (ChildDied, TimeoutError) as error:
        logger.warning("no estimate: the sample ended its process (%s)", error)
    try:
        return call(probe_here, encoders, [], threads, timeout_s=None)
    except ChildDied as error:
        models = ", ".join(settings.model for settings in encoders.values())
        raise ModelError(
            f"{models}: loading ended its process ({error}); check the model's files, and the "
            "device"
        ) from error


def probe_here(
    encoders: Mapping[str, "EncoderSettings"], texts: Sequence[str], threads: int | None
) -> dict[str, EncoderProbe]:
    """Load each encoder in this process, and run the sample."""
    from stx.pipelines.models.loading import limit_threads

    if threads is not None:
        limit_threads(threads)
    return {name: _probe(settings, list(texts)) for name, settings in encoders.items()}


def _probe(settings: "EncoderSettings", texts: list[str]) -> EncoderProbe:
    from stx.pipelines.encoding.stages import Encoder

    encoder = Encoder(settings)
    model = encoder.model
    encoder.tokens(texts[:1])
    before = time.perf_counter()
    tokens = encoder.tokens(texts)
    tokenising = time.perf_counter() - before
    mean = float(tokens.lengths.mean()) if texts else 0.0
    timed = texts[: max(1, int(_TIMED_TOKENS / max(mean, 1.0)))]
    # The first call also pays for allocations and lazy initialisation.
    values = encoder.embed(timed or ["a"]).values
    # Fewer calls where one takes long.
    speeds: list[float] = []
    began = time.perf_counter()
    while timed and len(speeds) < _TIMED_CALLS and time.perf_counter() - began < _TIMED_S:
        start = time.perf_counter()
        n_tokens = int(encoder.embed(timed).n_tokens.sum())
        speeds.append(n_tokens / (time.perf_counter() - start))
    return EncoderProbe(
        dim=values.shape[1] if isinstance(values, np.ndarray) else None,
        similarity=str(model.similarity_fn_name),
        max_seq_length=model.max_seq_length,
        device=model.device.type,
        tokens_per_row=mean,
        truncated_share=float(tokens.truncated.mean()) if texts else 0.0,
        tokens_per_second=float(np.median(speeds)) if speeds else None,
        tokenised_per_second=float(tokens.lengths.sum() / tokenising) if timed else None,
        why_padded=model.why_padded(encoder.settings.task) if model.places_run else None,
        tokens_per_row_error=float(tokens.lengths.std() / len(texts) ** 0.5) if texts else 0.0,
        speed_range=(min(speeds), max(speeds)) if len(speeds) > 1 else None,
    )
