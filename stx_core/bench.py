"""Speed of a model on this machine, beside what the machine could do.

Needs no cluster: it runs wherever torch and transformers are.

N texts, D numbers per vector.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from stx_core.inference.encode import TOKEN_BUDGET
from stx_core.inference.linear import project
from stx_core.inference.tokens import Tokens
from stx_core.machine import auto_dtype, cpu_class, keep_pages
from stx_core.models.cross_encoder import CrossEncoder
from stx_core.models.device import default_device
from stx_core.models.sentence_transformer import SentenceTransformer
from stx_core.models.sparse_encoder import SparseEncoder
from stx_core.models.text_model import TextModel
from stx_core.search.sparse_rows import SparseRows
from stx_core.store.schema import dense_column, sparse_column, to_parquet

Kind = Literal["dense", "sparse", "reranker"]

MODEL_CLASSES: dict[Kind, type[TextModel]] = {
    "dense": SentenceTransformer,
    "sparse": SparseEncoder,
    "reranker": CrossEncoder,
}

# What half precision may cost: cosine to float32 over the sample.
MEAN_COSINE, LEAST_COSINE = 0.9999, 0.999

# Texts of the accuracy check: float32 is slow.
_CHECKED_TEXTS = 256

_GEMM_ROWS = {"cpu": 4096, "cuda": 16384}
_COPY_BYTES = 256 << 20
_ROUNDS = 5


@dataclass(frozen=True)
class Limits:
    """Speed of the hardware in dense matrix products and in copies, measured.

    Attributes:
        device: its name.
        cpu_class: see `CpuClass`.
        threads: of the CPU.
        gemm: number format to operations per second, the best of the model's own shapes.
        bandwidth: bytes per second that a copy reads and writes.
    """

    device: str
    cpu_class: str
    threads: int
    gemm: Mapping[str, float]
    bandwidth: float


@dataclass(frozen=True)
class Speed:
    """One setting, measured on the sample.

    Attributes:
        dtype: what the model computed in.
        token_budget: tokens of one batch.
        seconds: of the whole, median of some rounds.
        texts_per_second: with tokenising and writing.
        tokens_per_second: the same, in tokens that the model reads.
        padding: tokens computed per token read; 1 is no padding.
        utilisation: share of `Limits.gemm` in this number format.
        shares: part of the work to its share of the seconds.
    """

    dtype: str
    token_budget: int
    seconds: float
    texts_per_second: float
    tokens_per_second: float
    padding: float
    utilisation: float
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Bench:
    """All that was measured.

    Attributes:
        n_texts: N.
        tokens: ``median``, ``mean``, ``p95`` and ``longest`` of tokens per text.
        truncated: share of texts that the model does not read to the end.
        flops_per_token: of linear layers, at the sample's lengths with attention.
        why_padded: None where batches are packed.
        speeds: of all settings, in the order in which they were tried.
        cosine: number format to (mean, least) cosine to float32 on a part of the sample.
    """

    limits: Limits
    n_texts: int
    tokens: Mapping[str, float]
    truncated: float
    flops_per_token: float
    why_padded: str | None
    speeds: Sequence[Speed]
    cosine: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def best(self) -> Speed:
        """The fastest setting that is accurate."""
        good = [speed for speed in self.speeds if self.is_accurate(speed.dtype)]
        return max(good, key=lambda speed: speed.tokens_per_second)

    def is_accurate(self, dtype: str) -> bool:
        """Tell whether a number format gives nearly what float32 gives."""
        mean, least = self.cosine.get(dtype, (1.0, 1.0))
        return mean >= MEAN_COSINE and least >= LEAST_COSINE


def bench(
    name_or_path: str,
    texts: Sequence[str],
    kind: Kind = "dense",
    *,
    dtypes: Sequence[str] | None = None,
    budgets: Sequence[int] | None = None,
    rounds: int = _ROUNDS,
    max_seq_length: int | None = None,
    **options: Any,  # noqa: ANN401  (of the model)
) -> Bench:
    """Measure a model on a sample of a corpus.

    Args:
        name_or_path: of the model.
        texts: the sample; a reranker scores each with its neighbour.
        kind: of the model.
        dtypes: number formats; default: float32, and what suits the hardware.
        budgets: tokens of one batch; default: half, once and twice what suits the device.
        rounds: of each setting.
        max_seq_length: tokens to read of a text; default: what the model says.
        **options: of the model, see `TextModel`.
    """
    device = torch.device(options.pop("device", None) or default_device())
    if device.type == "cpu":
        keep_pages()
    usual = TOKEN_BUDGET.get(device.type, TOKEN_BUDGET["cpu"])
    budgets = budgets or (usual // 2, usual, usual * 2)
    models = {
        dtype: MODEL_CLASSES[kind](
            name_or_path, device=device, model_kwargs={"dtype": dtype}, **options
        )
        for dtype in dict.fromkeys(dtypes or ("float32", auto_dtype(device)))
    }
    for model in models.values():
        model.max_seq_length = max_seq_length or model.max_seq_length
    first = next(iter(models.values()))
    inputs: Sequence[Any] = list(texts)
    if kind == "reranker":
        inputs = list(zip(texts, [*texts[1:], texts[0]], strict=True))
    tokens = first.to_tokens(inputs)
    lengths = tokens.lengths
    flops = flops_per_token(first, lengths)
    measured: dict[tuple[str, int], list[_Round]] = {}
    gemm = dict.fromkeys(models, 0.0)
    for number in range(rounds + 1):
        # Setting after setting in each round: what else the machine does then hits all of them.
        for dtype, model in models.items():
            gemm[dtype] = max(gemm[dtype], gemm_limit(model, device))
            for budget in budgets:
                taken = _round(model, inputs, budget)
                if number:  # the first one warms up
                    measured.setdefault((dtype, budget), []).append(taken)
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device=device)
    copy_seconds = _seconds(partial(source.clone().copy_, source), device)
    limits = Limits(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        cpu_class=cpu_class(),
        threads=torch.get_num_threads(),
        gemm=gemm,
        bandwidth=2 * _COPY_BYTES / copy_seconds,
    )
    speeds = [
        _speed(
            dtype,
            budget,
            taken,
            n_texts=len(inputs),
            least_per_token=flops / gemm[dtype] if gemm[dtype] else 0.0,
        )
        for (dtype, budget), taken in measured.items()
    ]
    return Bench(
        limits=limits,
        n_texts=len(texts),
        tokens={
            "median": float(np.median(lengths)),
            "mean": float(lengths.mean()),
            "p95": float(np.percentile(lengths, 95)),
            "longest": float(lengths.max()),
        },
        truncated=float(tokens.truncated.mean()),
        flops_per_token=flops,
        why_padded=first.why_padded(),
        speeds=speeds,
        cosine=_accuracy(models, inputs[:_CHECKED_TEXTS]),
    )


def flops_per_token(model: TextModel, lengths: np.ndarray) -> float:
    """Operations of linear layers and attention, per token of inputs of such lengths.

    A multiplication and an addition are two. Embeddings, normalisation and activations are left
    out; of a vocabulary head every token is counted.
    """
    linear = sum(
        2 * layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear)
    )
    config = getattr(model.transformers_model, "config", None)
    if config is None:
        return float(linear)
    text = config.get_text_config()
    layers, width = int(text.num_hidden_layers), int(text.hidden_size)
    seen = float((lengths.astype(float) ** 2).sum() / max(1, lengths.sum()))
    return linear + 4 * layers * width * seen


def gemm_limit(model: TextModel, device: torch.device) -> float:
    """Operations per second of a matrix product in the best of the model's shapes, 0 for none."""
    n_rows = _GEMM_ROWS.get(device.type, _GEMM_ROWS["cpu"])
    layers = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    shapes = {tuple(layer.weight.shape): layer.weight for layer in layers}
    best = 0.0
    with torch.inference_mode():
        for (n_out, n_in), weight in shapes.items():
            x = torch.randn(n_rows, n_in, device=device).to(weight.dtype)
            product = partial(project, x, weight, None, first=0, end=n_out)
            seconds = _seconds(product, device)
            best = max(best, 2 * n_rows * n_in * n_out / seconds)
    return best


def _seconds(work: Callable[[], object], device: torch.device, rounds: int = 7) -> float:
    """The median of some rounds, after one to warm up."""
    taken = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        work()
        _wait(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class _Round:
    """Seconds of a round and of its parts; tokens that were read, and computed."""

    seconds: float = 0.0
    tokenise: float = 0.0
    forward: float = 0.0
    write: float = 0.0
    tokens: int = 0
    computed: int = 0


def _speed(
    dtype: str, budget: int, taken: Sequence[_Round], *, n_texts: int, least_per_token: float
) -> Speed:
    """Of the middle round; `least_per_token`: seconds of a token at the limit."""
    middle = sorted(taken, key=lambda measured: measured.seconds)[len(taken) // 2]
    whole = middle.seconds
    parts = {"tokenise": middle.tokenise, "forward": middle.forward, "write": middle.write}
    shares = {name: seconds / whole for name, seconds in parts.items()}
    return Speed(
        dtype=dtype,
        token_budget=budget,
        seconds=whole,
        texts_per_second=n_texts / whole,
        tokens_per_second=middle.tokens / whole,
        padding=middle.computed / max(1, middle.tokens),
        utilisation=middle.tokens * least_per_token / whole,
        shares=shares | {"other": max(0.0, 1 - sum(shares.values()))},
    )


def _round(model: TextModel, inputs: Sequence[Any], budget: int) -> _Round:
    total = _Round()
    start = time.perf_counter()
    with _watched(model, total):
        result = _run(model, inputs, budget)
    computed = time.perf_counter()
    # As a job writes its vectors, without the store.
    if isinstance(result, SparseRows):
        column = sparse_column(*result)
    else:
        column = dense_column(result) if result.ndim == 2 else pa.array(result)
    to_parquet(pa.table({"vector": column}), {})
    end = time.perf_counter()
    total.write, total.seconds = end - computed, end - start
    return total


@contextmanager
def _watched(model: TextModel, total: _Round) -> Iterator[None]:
    """Add up what a model's tokenising and forward passes take."""
    started = [0.0]

    def before(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        _wait(model.device)
        total.computed += inputs[0]["input_ids"].numel()
        started[0] = time.perf_counter()

    def after(*_: object) -> None:
        _wait(model.device)
        total.forward += time.perf_counter() - started[0]

    def to_tokens(*args: Any, **options: Any) -> Tokens:  # noqa: ANN401
        start = time.perf_counter()
        tokens = type(model).to_tokens(model, *args, **options)
        total.tokenise += time.perf_counter() - start
        total.tokens += int(tokens.lengths.sum())
        return tokens

    hooks = model.register_forward_pre_hook(before), model.register_forward_hook(after)
    model.to_tokens = to_tokens  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.to_tokens
        for hook in hooks:
            hook.remove()


def _run(model: TextModel, inputs: Sequence[Any], budget: int) -> np.ndarray | SparseRows:
    if isinstance(model, CrossEncoder):
        return model.score(inputs, token_budget=budget).scores
    if isinstance(model, SentenceTransformer | SparseEncoder):
        return model.embed(inputs, token_budget=budget).values
    raise AssertionError(f"no way to run a {type(model).__name__}")


def _accuracy(
    models: Mapping[str, TextModel], inputs: Sequence[Any]
) -> dict[str, tuple[float, float]]:
    """Mean and least cosine to float32, where that was measured; of scores, their correlation."""
    if "float32" not in models:
        return {}
    exact = _matrix(models["float32"], inputs)
    accuracy = {}
    for dtype, model in models.items():
        if dtype == "float32":
            continue
        rounded = _matrix(model, inputs)
        width = max(rounded.shape[1], exact.shape[1])
        a, b = (
            np.pad(x.astype(np.float64), ((0, 0), (0, width - x.shape[1])))
            for x in (rounded, exact)
        )
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines = (a * b).sum(1) / np.maximum(norms, 1e-30)
        accuracy[dtype] = (float(cosines.mean()), float(cosines.min()))
    return accuracy


def _matrix(model: TextModel, inputs: Sequence[Any]) -> np.ndarray:
    """(N, D), or for scores (1, N) around their mean."""
    result = _run(model, inputs, TOKEN_BUDGET["cpu"])
    if isinstance(result, SparseRows):
        dense = np.zeros((len(inputs), int(result.indices.max(initial=0)) + 1), np.float32)
        rows = np.repeat(np.arange(len(inputs)), np.diff(result.offsets))
        dense[rows, result.indices] = result.values
        return dense
    return result if result.ndim == 2 else (result - result.mean())[None]
