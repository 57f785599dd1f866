import json

import pytest

from stx_core.errors import ModelError
from stx_core.models.modules.module import LoadOptions
from stx_core.models.modules.word_embeddings import WordEmbeddings
from stx_core.models.modules.word_tokenizers import PhraseTokenizer, WordTokenizer


def test_a_word_is_found_as_spelt_then_without_punctuation_then_in_lower_case():
    tokenizer = WordTokenizer(["Sun!", "Sun", "sun", "sea"], stop_words=())

    assert tokenizer.tokenize("Sun! Sun? SUN sea. SEA, moon") == [0, 1, 2, 3, 3]


def test_stop_words_are_dropped_in_any_form():
    tokenizer = WordTokenizer(["the", "sun"], stop_words=["the"])

    assert tokenizer.tokenize("The the the, sun") == [1]


def test_punctuation_alone_is_no_word():
    assert WordTokenizer(["sun", ""], stop_words=()).tokenize("-- sun ...") == [0]


def test_lower_casing_comes_first_when_asked_for():
    vocab = ["Sun", "sun"]

    assert WordTokenizer(vocab, (), do_lower_case=True).tokenize("Sun") == [1]
    assert WordTokenizer(vocab, (), do_lower_case=False).tokenize("Sun") == [0]


def test_saving_and_loading_gives_the_same_ids(tmp_path):
    tokenizer = WordTokenizer(["b", "a", "b"], ["x", "y"], do_lower_case=True)

    tokenizer.save(tmp_path)
    again = WordTokenizer.from_folder(tmp_path)

    assert again.get_config_dict() == tokenizer.get_config_dict()
    assert again.tokenize("a b x") == tokenizer.tokenize("a b x") == [1, 2]


def test_missing_stop_words_are_an_error_and_not_guessed(tmp_path):
    (tmp_path / "whitespacetokenizer_config.json").write_text(json.dumps({"vocab": ["a"]}))

    with pytest.raises(ModelError, match="stop_words"):
        WordTokenizer.from_folder(tmp_path)


def test_a_class_outside_the_table_is_refused_and_not_imported(tmp_path):
    config = json.dumps({"tokenizer_class": "os.path"})
    (tmp_path / "wordembedding_config.json").write_text(config)

    with pytest.raises(ModelError, match=r"'os\.path' is unknown, code .* is not run"):
        WordEmbeddings.from_folder(tmp_path, LoadOptions())


def test_phrases_of_the_vocabulary_become_one_token_longest_first():
    tokenizer = PhraseTokenizer(["New_York", "New_York_City", "city", "a__b"], stop_words=())

    assert tokenizer.tokenize("New York City") == [1]
    assert tokenizer.tokenize("New York, City") == [0, 2]


def test_a_missing_nltk_is_an_error_that_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nltk", None)

    with pytest.raises(ModelError, match="pip install nltk"):
        PhraseTokenizer(["a"], stop_words=())
