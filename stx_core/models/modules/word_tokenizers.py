"""Word-level tokenizers of the oldest models: split, look the words up, drop the rest."""

import importlib
import string
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, get_type_hints

from stx_core.errors import ModelError
from stx_core.models.folder import read_json, reading, write_json
from stx_core.models.settings import check_settings


class WordTokenizer:
    """Splits on white space, ignores punctuation around words, drops unknown and stop words.

    Args:
        vocab: words in order of their ids.
        stop_words: words to leave out.
        do_lower_case: lower-case the text first.
    """

    config_file_name: ClassVar[str] = "whitespacetokenizer_config.json"
    saved_as: ClassVar[str] = (
        "sentence_transformers.sentence_transformer.modules.tokenizer.whitespace.WhitespaceTokenizer"
    )

    def __init__(
        self, vocab: Sequence[str], stop_words: Iterable[str], do_lower_case: bool = False
    ) -> None:
        self.vocab = list(vocab)
        self.stop_words = frozenset(stop_words)
        self.do_lower_case = do_lower_case

    @property
    def vocab(self) -> list[str]:
        """Words in order of their ids."""
        return self._vocab

    @vocab.setter
    def vocab(self, value: Sequence[str]) -> None:
        self._vocab = list(value)
        self._ids = {word: index for index, word in enumerate(self._vocab)}

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Load from the tokenizer's config file.

        Raises:
            ModelError: a setting is missing or unknown. The stop words are never guessed.
        """
        path = folder / cls.config_file_name
        config = read_json(path)
        hints = get_type_hints(cls.__init__)
        # A set of words is a list in a file.
        check_settings(config, hints | {"stop_words": list[str]}, f"{path}: settings do not fit")
        with reading(path, "settings do not fit the tokenizer"):
            return cls(**config)

    def save(self, folder: Path) -> None:
        """Write the tokenizer's config file."""
        write_json(folder / self.config_file_name, self.get_config_dict())

    def get_config_dict(self) -> dict[str, Any]:
        """Settings as they are saved."""
        return {
            "vocab": self.vocab,
            "stop_words": sorted(self.stop_words),
            "do_lower_case": self.do_lower_case,
        }

    def tokenize(self, text: str) -> list[int]:
        """Ids of the known words of a text, in order."""
        if self.do_lower_case:
            text = text.lower()
        return self._look_up((word, bare := _strip(word), bare.lower()) for word in text.split())

    def _look_up(self, words: Iterable[tuple[str, ...]]) -> list[int]:
        """Ids of words, each given by its forms: the first form that is known decides."""
        ids = []
        for forms in words:
            for form in forms:
                if form in self.stop_words:
                    break
                if form and form in self._ids:
                    ids.append(self._ids[form])
                    break
        return ids


class PhraseTokenizer(WordTokenizer):
    """Splits like NLTK, then joins neighbours that the vocabulary knows as one phrase.

    Phrases are vocabulary entries with a separator inside, such as ``New_York``. Longer phrases
    win over shorter ones.

    Args:
        vocab: words and phrases in order of their ids.
        stop_words: words to leave out.
        do_lower_case: kept and saved, without effect, as in the reference.
        ngram_separator: joins the words of a phrase; None for no phrases.
        max_ngram_length: words of a phrase at most.
    """

    config_file_name: ClassVar[str] = "phrasetokenizer_config.json"
    saved_as: ClassVar[str] = (
        "sentence_transformers.sentence_transformer.modules.tokenizer.phrase.PhraseTokenizer"
    )

    def __init__(
        self,
        vocab: Sequence[str],
        stop_words: Iterable[str],
        do_lower_case: bool = False,
        ngram_separator: str | None = "_",
        max_ngram_length: int = 5,
    ) -> None:
        super().__init__(vocab, stop_words, do_lower_case)
        self.ngram_separator = ngram_separator
        self.max_ngram_length = max_ngram_length
        self._split = _nltk_split()

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name in ("vocab", "ngram_separator", "max_ngram_length") and hasattr(
            self, "max_ngram_length"
        ):
            self._phrases = self._known_phrases()
            # Longest first: New_York_City before New_York.
            self._phrase_lengths = sorted(set(self._phrases.values()), reverse=True)

    def get_config_dict(self) -> dict[str, Any]:
        """Settings as they are saved."""
        phrases = {
            "ngram_separator": self.ngram_separator,
            "max_ngram_length": self.max_ngram_length,
        }
        return super().get_config_dict() | phrases

    def tokenize(self, text: str) -> list[int]:
        """Ids of the known words and phrases of a text, in order."""
        words = self._join_phrases(self._split(text, preserve_line=True))
        return self._look_up((word, low := word.lower(), _strip(low)) for word in words)

    def _known_phrases(self) -> dict[str, int]:
        """Phrases of the vocabulary with their number of words; doubled separators are noise."""
        mark = self.ngram_separator
        if mark is None:
            return {}
        counts = {word: word.count(mark) + 1 for word in self.vocab if mark + mark not in word}
        return {word: n for word, n in counts.items() if 1 < n <= self.max_ngram_length}

    def _join_phrases(self, words: list[str]) -> list[str]:
        for length in self._phrase_lengths:
            start = 0
            while start <= len(words) - length:
                phrase = str(self.ngram_separator).join(words[start : start + length])
                found = next((p for p in (phrase, phrase.lower()) if p in self._phrases), None)
                if found is not None:
                    words[start : start + length] = [found]
                start += 1
        return words


# The whole string decides; nothing is imported by name from a model folder.
WORD_TOKENIZERS: dict[str, type[WordTokenizer]] = {
    "sentence_transformers.models.tokenizer.WhitespaceTokenizer.WhitespaceTokenizer": WordTokenizer,
    WordTokenizer.saved_as: WordTokenizer,
    "sentence_transformers.models.tokenizer.PhraseTokenizer.PhraseTokenizer": PhraseTokenizer,
    PhraseTokenizer.saved_as: PhraseTokenizer,
}


def load_word_tokenizer(name: str | None, folder: Path) -> WordTokenizer:
    """Load the tokenizer that a config names by its dotted class.

    Raises:
        ModelError: the class is not in the closed table.
    """
    if name not in WORD_TOKENIZERS:
        raise ModelError(
            f"{folder}: tokenizer_class {name!r} is unknown, code from model folders is not run; "
            f"known are {sorted(WORD_TOKENIZERS)}"
        )
    return WORD_TOKENIZERS[name].from_folder(folder)


def _strip(word: str) -> str:
    return word.strip(string.punctuation)


def _nltk_split() -> Any:  # noqa: ANN401  (an optional package without types)
    try:
        return importlib.import_module("nltk").word_tokenize
    except ImportError as error:
        raise ModelError(
            "this model splits words with NLTK, which is not installed: pip install nltk"
        ) from error
