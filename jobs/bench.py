"""``stx bench``: how fast a model is on this machine, what limits it, and what to set."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stx_core.bench import Bench


def bench(
    model: Annotated[str, typer.Argument(help="Model folder or hub name.")],
    corpus: Annotated[
        str | None, typer.Option(help="File or folder to take texts from; made up if not given.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column of the corpus.")] = "text",
    kind: Annotated[str, typer.Option("--type", help="dense, sparse or reranker.")] = "dense",
    texts: Annotated[int, typer.Option(min=2, help="Texts of the sample.")] = 1000,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Cores to use; all there are if not given.")
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="float32, bfloat16 or float16; several for each.")
    ] = None,
    token_budget: Annotated[
        list[int] | None, typer.Option(min=1, help="Tokens of one batch; several for each.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each setting.")] = 3,
    max_seq_length: Annotated[int | None, typer.Option(min=2, help="Tokens to read.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a model on a sample, beside what the hardware can do."""
    import json
    from dataclasses import asdict

    from stx.pipelines.bench import run_bench

    result = run_bench(
        model,
        corpus,
        text_column,
        kind,
        n_texts=texts,
        threads=threads,
        dtypes=dtype,
        budgets=token_budget,
        rounds=rounds,
        max_seq_length=max_seq_length,
    )
    if as_json:
        print(json.dumps(asdict(result), indent=1))
        return
    _print(result)


def _print(result: "Bench") -> None:
    from rich.console import Console
    from rich.table import Table

    limits, tokens = result.limits, result.tokens
    peaks = ", ".join(f"{name} {peak / 1e12:.2f} TFLOP/s" for name, peak in limits.gemm.items())
    print(f"machine   {limits.device}, class {limits.cpu_class}, {limits.threads} threads")
    print(f"limit     {peaks} in the model's shapes; memory {limits.bandwidth / 1e9:.0f} GB/s")
    print(
        f"sample    {result.n_texts:,} texts, tokens: median {tokens['median']:.0f}, mean "
        f"{tokens['mean']:.0f}, p95 {tokens['p95']:.0f}; {result.truncated:.1%} cut"
    )
    print(f"work      {result.flops_per_token / 1e6:.1f} MFLOP per token")
    print(f"batches   {'packed' if result.why_padded is None else 'padded: ' + result.why_padded}")
    table = Table(box=None, pad_edge=False)
    names = ("dtype", "token_budget", "texts/s", "tokens/s", "of limit", "padding")
    parts = list(result.speeds[0].shares)
    for name in (*names, *parts):
        table.add_column(name, justify="left" if name == "dtype" else "right")
    for speed in result.speeds:
        cells = [
            speed.dtype,
            f"{speed.token_budget:,}",
            f"{speed.texts_per_second:,.0f}",
            f"{speed.tokens_per_second:,.0f}",
            f"{speed.utilisation:.0%}",
            f"{speed.padding:.2f}",
        ]
        table.add_row(*cells, *(f"{speed.shares[part]:.0%}" for part in parts))
    Console(width=120, highlight=False, force_terminal=False).print(table)
    for dtype, (mean, least) in result.cosine.items():
        verdict = "good" if result.is_accurate(dtype) else "not good enough: use float32"
        print(f"accuracy  {dtype}: cosine to float32 {mean:.5f} mean, {least:.5f} least: {verdict}")
    best = result.best
    print("advice    set for this machine:")
    print(f"            dtype: {best.dtype}")
    print("          resources:")
    print(f"            token_budget: {best.token_budget}")
    print(f"            cpus_per_actor: {limits.threads}")
    tokenising = best.shares["tokenise"]
    cores = limits.threads * tokenising / max(1 - tokenising, 1e-9)
    print(f"            # {cores:.1f} cores tokenise as fast as it computes")
