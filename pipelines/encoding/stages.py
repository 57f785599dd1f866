"""The actors: classes that load a model once and add its results to the table of a unit."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from stx.pipelines.encoding.carry import texts_to_encode
from stx.pipelines.encoding.token_column import tokens_of
from stx.pipelines.models.loading import in_float32, limit_threads, load_planned
from stx.pipelines.models.settings import HUB_ORGANISATION, EncoderSettings
from stx.pipelines.running import unit_table
from stx.pipelines.running.activity import part_of_unit, report
from stx_core import failpoints
from stx_core.store.schema import dense_column, sparse_column

if TYPE_CHECKING:
    from stx_core.inference.tokens import Tokens
    from stx_core.models.results import Embedded
    from stx_core.models.sentence_transformer import SentenceTransformer
    from stx_core.models.sparse_encoder import SparseEncoder


class Encoder:
    """A dense or sparse model with the settings of one output."""

    def __init__(
        self,
        settings: EncoderSettings,
        token_budget: int | None = None,
        *,
        memory_share: float = 1.0,
        reproducible: bool = False,
    ) -> None:
        self.settings = settings
        name = "SparseEncoder" if settings.type == "sparse" else "SentenceTransformer"
        model: SentenceTransformer | SparseEncoder
        model = load_planned(name, settings, HUB_ORGANISATION[settings.type])
        if settings.max_seq_length is not None:
            model.max_seq_length = settings.max_seq_length
        self.model = model
        self.model.reproducible = reproducible
        usual = token_budget or self.model.default_token_budget()
        self.token_budget = max(1, int(usual * memory_share))

    def embed(self, texts: "list[str] | Tokens", task: str | None = None) -> "Embedded":
        """Encode texts the way the output is encoded; `task` overrides the side of the model."""
        settings = self.settings
        embed: Callable[..., Embedded] = self.model.embed
        if settings.type == "sparse":
            embed = partial(embed, max_active_dims=settings.max_active_dims)
        else:
            embed = partial(
                embed,
                normalize_embeddings=settings.normalize,
                truncate_dim=settings.truncate_dim,
            )
        return embed(
            texts,
            prompt=settings.prompt if task is None else None,
            task=task or settings.task,
            token_budget=self.token_budget,
        )

    def tokens_run(self) -> dict[str, int]:
        """Tokens of its batches so far, their places with padding, and what filled packed ones."""
        model = self.model
        return {"tokens": model.tokens_run, "places": model.places_run, "fill": model.fill_run}

    def tokens(self, texts: list[str]) -> "Tokens":
        """The tokens that `embed` would give the model."""
        settings = self.settings
        return self.model.corpus_tokens(texts, prompt=settings.prompt, task=settings.task)


class Encode:
    """Adds each due output's vectors to a unit: one pass over the texts, several models.

    Args:
        encoders: settings by output name.
        threads: cores this actor was given; None leaves the libraries' own choice.
        token_budget: tokens of one batch.
        reproducible: see `TextModel`.
        progress: called after each batch.
        memory_share: share of the token budget to use, where memory has run out before.
    """

    def __init__(
        self,
        encoders: Mapping[str, EncoderSettings],
        threads: int | None,
        token_budget: int | None,
        reproducible: bool = False,
        progress: Callable[[], None] | None = None,
        memory_share: float = 1.0,
    ) -> None:
        if threads is not None:
            limit_threads(threads)
        self.encoders = {
            name: Encoder(
                settings,
                token_budget,
                memory_share=memory_share,
                reproducible=reproducible,
            )
            for name, settings in encoders.items()
        }
        if progress is not None:
            for encoder in self.encoders.values():
                encoder.model.register_forward_hook(lambda *_: progress())

    def __call__(self, table: pa.Table) -> pa.Table:
        """Add ``<output>.vector``, ``.n_tokens``, ``.truncated`` and ``.rejected`` columns."""
        notes = unit_table.notes(table)
        seconds, run = notes["seconds"], notes.get("run", {})
        report(0.0, 0)
        n_before = 0
        for number, output in enumerate(notes["due"]):
            encoder = self.encoders[output]
            before = encoder.tokens_run()
            encoder.model.on_batch = part_of_unit(number, len(notes["due"]), n_before)
            with unit_table.timed(seconds, f"encode.{output}"):
                tokens = partial(tokens_of, table, output, encoder.settings.task)
                columns = encode_texts(encoder, texts_to_encode(table, output), tokens)
            for name, count in encoder.tokens_run().items():
                run[f"{output}.{name}"] = count - before[name]
            n_before += run[f"{output}.tokens"]
            failpoints.hit("encode.mid")
            for name, column in columns.items():
                table = table.append_column(f"{output}.{name}", column)
        return unit_table.with_notes(table, seconds=seconds, run=run)


def encode_texts(
    encoder: Encoder,
    texts: pa.ChunkedArray,
    tokens: "Callable[[np.ndarray], Tokens | None] | None" = None,
) -> dict[str, pa.Array]:
    """Encode the texts of a unit, equal ones once.

    Args:
        encoder: the model of one output.
        texts: (N,) strings, null where there is nothing to encode.
        tokens: the tokens of chosen rows, where they were tokenised before.

    A vector that overflows a half format is computed a second time, in float32.

    Returns:
        Columns of N rows, null where the text is: ``vector``, ``n_tokens``, ``truncated``, and
        ``rejected`` for texts that do not fit into memory or whose vector is not finite.
    """
    distinct = texts.combine_chunks().dictionary_encode()
    texts_once = distinct.dictionary.to_pylist()
    # Of each distinct text, the first row that has it.
    valid = np.flatnonzero(distinct.indices.is_valid().to_numpy(zero_copy_only=False))
    codes = distinct.indices.drop_null().to_numpy()
    first = valid[np.unique(codes, return_index=True)[1]]
    columns, bad = _embed(encoder, (tokens and tokens(first)) or texts_once)
    if len(bad) and encoder.settings.dtype != "float32":
        with in_float32(encoder.model):
            again, _ = _embed(encoder, [texts_once[row] for row in bad])
        chosen = np.arange(len(texts_once))
        chosen[bad] = len(texts_once) + np.arange(len(bad))
        columns = {
            name: pa.concat_arrays([column, again[name]]).take(pa.array(chosen))
            for name, column in columns.items()
        }
    return {name: column.take(distinct.indices) for name, column in columns.items()}


def _embed(encoder: Encoder, texts: "list[str] | Tokens") -> tuple[dict[str, pa.Array], np.ndarray]:
    """The columns of N texts, and the rows whose vectors are not finite."""
    result = encoder.embed(texts)
    values = result.values
    if isinstance(values, np.ndarray):
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        vectors = dense_column(values.astype(encoder.settings.store_as, copy=False))
    else:
        places = np.flatnonzero(~np.isfinite(values.values))
        bad = np.unique(np.searchsorted(values.offsets, places, side="right") - 1)
        vectors = sparse_column(*values)
    reasons: dict[int, tuple[str, str, str]] = {
        row: ("not_finite", "text", "the model gave NaN or Inf, in float32 too")
        for row in bad.tolist()
    }
    for row, detail in result.failed.items():
        reasons[row] = ("out_of_memory", "text", detail)
    columns = {
        "vector": vectors,
        "n_tokens": pa.array(result.n_tokens, pa.int32()),
        "truncated": pa.array(result.truncated),
        "rejected": unit_table.rejections([reasons.get(row) for row in range(len(texts))]),
    }
    return columns, bad
