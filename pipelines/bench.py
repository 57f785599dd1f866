"""The sample and the settings of ``stx bench``."""

from collections.abc import Sequence
from typing import get_args

import numpy as np

from pipelines.corpus import list_corpus, sample_texts
from pipelines.plan import available_cores
from pipelines.spec import Inputs
from pipelines.stages import limit_threads
from stx_core.errors import InputError, SpecError
from stx_core.inference.bench import Bench, Kind, bench

# Lengths of made-up texts, in words: a median of 61 and a mean of 95, as on the web.
_LOG_MEDIAN, _LOG_SPREAD, _LONGEST = np.log(61), 0.94, 510


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
    texts = made_up_texts(n_texts) if corpus is None else _sample(corpus, text_column, n_texts)
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


def _sample(corpus: str, text_column: str, n_texts: int) -> list[str]:
    inputs = Inputs(path=corpus, text_column=text_column, id_column=None)
    texts = sample_texts(list_corpus(inputs), inputs, n_texts)
    if len(texts) < 2:
        raise InputError(f"{corpus}: has no two texts to measure with")
    return texts


def made_up_texts(n_texts: int, seed: int = 0) -> list[str]:
    """Texts of common English words, of lengths like those of pages and paragraphs."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(_LOG_MEDIAN, _LOG_SPREAD, n_texts), 1, _LONGEST).astype(int)
    words = rng.choice(_WORDS, size=int(lengths.sum()))
    ends = np.cumsum(lengths)
    return [" ".join(words[end - n : end]) for end, n in zip(ends, lengths, strict=True)]


_WORDS = """
the of and to in is that for it as was with be by on not this are at from but or have an they which
one you were all her there been their we more when who will no if out so up said what its about than
into them can only other time new some could these two may first then do any like my now over such
our man even most made after also did many off before must well back through years where much your
way down should because long each just state people those too mr how little good world make very
year still see own work men day get here old life both between being under three never know same
last another while us might great go come since against right came take used himself house use
during without again place around however home small found thought went say part once general high
upon school every does got united number hand course water until always public something fact
""".split()  # noqa: SIM905  (a list of them would be a page)
