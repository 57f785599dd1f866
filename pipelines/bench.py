"""The sample and the settings of ``stx bench``."""

from collections.abc import Sequence
from typing import get_args

from huggingface_hub.utils.tqdm import disable_progress_bars

from stx.pipelines.models.loading import limit_threads
from stx.pipelines.planning.corpus import list_corpus, sample_texts
from stx.pipelines.planning.pool import available_cores
from stx.pipelines.spec.parts import Inputs
from stx_core.bench import Bench, Kind, bench
from stx_core.errors import InputError, SpecError
from stx_core.made_up import made_up_texts


def run_bench(
    model: str,
    corpus: str | None,
    text_column: str,
    kind: str,
    *,
    n_texts: int,
    threads: int | None,
    dtypes: Sequence[str] | None,
    budgets: Sequence[int] | None,
    rounds: int,
    max_seq_length: int | None,
) -> Bench:
    """Take the sample, and measure a model on it; see `bench`.

    Raises:
        SpecError: an option is not possible.
        InputError: the corpus cannot be read.
        ModelError: the model cannot be loaded.
    """
    if kind not in get_args(Kind):
        raise SpecError(f"--type {kind}: must be one of {', '.join(get_args(Kind))}")
    disable_progress_bars()
    if corpus is None:
        texts = made_up_texts(n_texts)
    else:
        inputs = Inputs(path=corpus, text_column=text_column, id_column=None)
        texts = sample_texts(list_corpus(inputs), inputs, n_texts)
        if len(texts) < 2:
            raise InputError(f"{corpus}: has no two texts to measure with")
    limit_threads(threads or available_cores())
    return bench(
        model,
        texts,
        kind,  # type: ignore[arg-type]  # checked above
        dtypes=dtypes,
        budgets=budgets,
        rounds=rounds,
        max_seq_length=max_seq_length,
    )
