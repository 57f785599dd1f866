"""Texts to measure with where there is no corpus."""

import numpy as np

# Of lengths in words: a median of 61 and a mean of 90, as of paragraphs on the web.
_LOG_MEDIAN, _LOG_SPREAD, _LONGEST = np.log(61), 0.94, 510


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
