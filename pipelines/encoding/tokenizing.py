"""Tokenising in actors of its own: a GPU that waits for texts to be tokenised does nothing."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from stx.pipelines.encoding import token_column
from stx.pipelines.encoding.carry import texts_to_encode
from stx.pipelines.encoding.stages import Encoder
from stx.pipelines.models.loading import limit_threads
from stx.pipelines.models.settings import EncoderSettings
from stx.pipelines.running import unit_table

if TYPE_CHECKING:
    from stx.pipelines.encoding.estimate import EncoderProbe


class Tokenize:
    """Adds each due output's tokens to a unit.

    Args:
        encoders: settings by output name.
        threads: cores this actor was given.
        progress: called after each output.
        memory_share: of no use here; every stage takes it.
    """

    def __init__(
        self,
        encoders: Mapping[str, EncoderSettings],
        threads: int,
        progress: Callable[[], None] | None = None,
        memory_share: float = 1.0,
    ) -> None:
        limit_threads(threads)
        self.encoders = {
            name: Encoder(settings, memory_share=memory_share)
            for name, settings in encoders.items()
        }
        for encoder in self.encoders.values():
            encoder.model.to("meta")  # only the tokenizer is used: the weights' memory is freed
        self.progress = progress or (lambda: None)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Add ``<output>.tokens`` columns."""
        notes = unit_table.notes(table)
        seconds, prompts = notes["seconds"], {}
        for output in notes["due"]:
            with unit_table.timed(seconds, f"tokenise.{output}"):
                # Equal texts once.
                distinct = texts_to_encode(table, output).combine_chunks().dictionary_encode()
                tokens = self.encoders[output].tokens(distinct.dictionary.to_pylist())
                column = token_column.to_column(tokens, distinct.indices)
                prompts[output] = tokens.prompt_length
            table = table.append_column(token_column.name(output), column)
            self.progress()
        return unit_table.with_notes(table, seconds=seconds, prompt_lengths=prompts)


def actors_needed(
    probes: Iterable["EncoderProbe | None"], gpu_actors: int, free_cpus: float, cpus: int
) -> int:
    """Actors that tokenise as fast as the GPUs compute.

    Args:
        probes: of the encoders; without one from a GPU, an actor for each GPU is taken.
        gpu_actors: that encode.
        free_cpus: of the cluster, beside them.
        cpus: of one tokenising actor; what the probes tokenised on.
    """
    needed = float(gpu_actors)
    ratios = [
        probe.tokens_per_second / probe.tokenised_per_second
        for probe in probes
        if probe is not None
        and probe.device != "cpu"
        and probe.tokens_per_second
        and probe.tokenised_per_second
    ]
    if ratios:
        needed = gpu_actors * sum(ratios) / len(ratios)
    return max(0, min(math.ceil(needed), int(free_cpus // cpus)))
