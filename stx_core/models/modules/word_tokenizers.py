"""Word-level tokenizers of the oldest models: split, look the words up, drop the rest."""

import importlib
import string
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, get_type_hints

from stx_core.errors import ModelError
from stx_core.inference.tokens import Tokens, from_lists
from stx_core.models.folder import JsonObject, read_json, reading, write_json
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
        self.vocab: list[str] = list(vocab)
        self.stop_words = frozenset(stop_words)
        self.do_lower_case = do_lower_case

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401
        super().__setattr__(name, list(value) if name == "vocab" else value)
        if name == "vocab":
            self._ids = {word: index for index, word in enumerate(self.vocab)}

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

    def get_config_dict(self) -> JsonObject:
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
        marks = string.punctuation
        return self._look_up((w, bare := w.strip(marks), bare.lower()) for w in text.split())

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
        try:
            self._split = importlib.import_module("nltk").word_tokenize
        except ImportError as error:
            raise ModelError(
                "this model splits words with NLTK, which is not installed: pip install nltk"
            ) from error

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name in ("vocab", "ngram_separator", "max_ngram_length") and hasattr(
            self, "max_ngram_length"
        ):
            # Phrases with their number of words; doubled separators are noise.
            mark = self.ngram_separator
            words = [word for word in self.vocab if mark and mark + mark not in word]
            counts = {word: word.count(str(mark)) + 1 for word in words}
            self._phrases = {w: n for w, n in counts.items() if 1 < n <= self.max_ngram_length}
            # Longest first: New_York_City before New_York.
            self._phrase_lengths = sorted(set(self._phrases.values()), reverse=True)

    def get_config_dict(self) -> JsonObject:
        """Settings as they are saved."""
        phrases = {
            "ngram_separator": self.ngram_separator,
            "max_ngram_length": self.max_ngram_length,
        }
        return super().get_config_dict() | phrases

    def tokenize(self, text: str) -> list[int]:
        """Ids of the known words and phrases of a text, in order."""
        words: list[str] = self._split(text, preserve_line=True)
        for length in self._phrase_lengths:
            start = 0
            while start <= len(words) - length:
                joined = str(self.ngram_separator).join(words[start : start + length])
                phrase = next((p for p in (joined, joined.lower()) if p in self._phrases), None)
                if phrase is not None:
                    words[start : start + length] = [phrase]
                start += 1
        marks = string.punctuation
        return self._look_up((word, low := word.lower(), low.strip(marks)) for word in words)


# The whole string decides; nothing is imported by name from a model folder.
WORD_TOKENIZERS: dict[str, type[WordTokenizer]] = {
    "sentence_transformers.models.tokenizer.WhitespaceTokenizer.WhitespaceTokenizer": WordTokenizer,
    WordTokenizer.saved_as: WordTokenizer,
    "sentence_transformers.models.tokenizer.PhraseTokenizer.PhraseTokenizer": PhraseTokenizer,
    PhraseTokenizer.saved_as: PhraseTokenizer,
}


def word_tokens(tokenizer: WordTokenizer, texts: Iterable[str], limit: int | None) -> Tokens:
    """Ragged word ids of N texts, cut to `limit` words each; None cuts none."""
    words = [tokenizer.tokenize(text) for text in texts]
    truncated = [limit is not None and len(ids) > limit for ids in words]
    return from_lists([ids[:limit] for ids in words], truncated)
