import numpy as np
import pytest

from stx_core.errors import InputError
from stx_core.models.inputs import read_only_texts, read_pairs, read_texts


@pytest.mark.parametrize(
    "inputs",
    [
        ["a", " b "],
        ("a", " b "),
        np.array(["a", " b "]),
        np.array(["a", " b "], dtype=object),
        iter(["a", " b "]),
    ],
    ids=["list", "tuple", "numpy_unicode", "numpy_object", "iterator"],
)
def test_many_texts_in_any_container_stay_as_they_are(inputs):
    assert read_texts(inputs) == (["a", " b "], False)


def test_a_column_of_a_dataset_is_many_texts():
    import datasets

    column = datasets.Dataset.from_dict({"text": ["a", "b"]})["text"]

    assert read_texts(column) == (["a", "b"], False)


@pytest.mark.parametrize("inputs", ["a", np.array("a"), np.str_("a")])
def test_single_text_is_distinguished_from_a_list(inputs):
    assert read_texts(inputs) == (["a"], True)


@pytest.mark.parametrize("inputs", [None, 3, 2.5, float("nan"), b"a", {"text": "a"}])
def test_non_string_inputs_are_refused(inputs):
    with pytest.raises(InputError, match="must be a str or a list"):
        read_texts(inputs)


@pytest.mark.parametrize("value", [None, 3, float("nan"), b"a", ["a"], ("a", "b")])
def test_error_names_the_row_that_is_no_string(value):
    with pytest.raises(InputError, match="input 1 is .*, expected str"):
        read_texts(["a", value])


# --- Containers ----------------------------------------------------------------------------------


def containers(items):
    """The same items in everything that holds them in order."""
    import pandas as pd
    import pyarrow as pa

    return {
        "list": list(items),
        "tuple": tuple(items),
        "series": pd.Series(items),
        "series_with_an_index_of_its_own": pd.Series(items, index=range(7, 7 + len(items))),
        "iterator": iter(items),
        "dict_values": dict(enumerate(items)).values(),
        "dict_keys": dict.fromkeys(items).keys(),
        "generator": (item for item in items),
        "arrow": pa.array(items) if isinstance(items[0], str) else iter(items),
        "arrow_chunked": pa.chunked_array([items]) if isinstance(items[0], str) else iter(items),
    }


@pytest.mark.parametrize("kind", containers(["a", "b"]))
def test_texts_come_in_anything_that_has_an_order(kind):
    assert read_texts(containers(["b", "a"])[kind]) == (["b", "a"], False)


PAIRS = [("q", "d"), ("q", "e")]


@pytest.mark.parametrize("kind", containers(PAIRS))
def test_pairs_come_in_anything_that_has_an_order(kind):
    assert read_pairs(containers(PAIRS)[kind]) == (PAIRS, False)
    assert read_texts(containers(PAIRS)[kind]) == (PAIRS, False)


@pytest.mark.parametrize("pairs", [zip(["q", "q"], ["d", "e"], strict=True), np.array(PAIRS)])
def test_pairs_may_be_zipped_or_an_array(pairs):
    assert read_pairs(pairs) == (PAIRS, False)


@pytest.mark.parametrize("pair", [("q", "d"), ["q", "d"], np.array(["q", "d"])])
def test_single_pair_is_distinguished_from_a_list(pair):
    assert read_pairs(pair) == ([("q", "d")], True)


@pytest.mark.parametrize("read", [read_texts, read_pairs])
@pytest.mark.parametrize("kind", ["pandas", "arrow", "datasets"])
def test_a_table_is_refused_with_what_to_pass(kind, read):
    import datasets
    import pandas as pd
    import pyarrow as pa

    columns = {"query": ["a"], "document": ["b"]}
    make = {"pandas": pd.DataFrame, "arrow": pa.table, "datasets": datasets.Dataset.from_dict}

    with pytest.raises(InputError, match=r"a table: pass its column .*'query', 'document'"):
        read(make[kind](columns))


@pytest.mark.parametrize("read", [read_texts, read_pairs])
@pytest.mark.parametrize("kind", [set, frozenset])
def test_a_set_has_no_order(kind, read):
    with pytest.raises(InputError, match="has no order: pass sorted"):
        read(kind(["a", "b"]))


@pytest.mark.parametrize("inputs", [None, 3, b"a", {"q": "d"}, "text"])
def test_inputs_that_are_not_pairs_are_refused(inputs):
    with pytest.raises(InputError, match="pairs must be"):
        read_pairs(inputs)


@pytest.mark.parametrize("item", [None, 3, "ab", ("q",), ("q", "d", "e"), ("q", 3), {"q": "d"}])
def test_error_names_the_row_that_is_no_pair(item):
    with pytest.raises(InputError, match=r"1 must be two texts \(query, document\), got"):
        read_pairs([("q", "d"), item])


def test_texts_and_pairs_are_not_mixed():
    with pytest.raises(InputError, match="input 1 must be two texts"):
        read_texts([("q", "d"), "text"])


@pytest.mark.parametrize("documents", ["text", b"text", {"a", "b"}, None, {"a": "b"}, ["a", None]])
def test_documents_are_a_list_of_texts(documents):
    with pytest.raises(InputError, match="documents"):
        read_only_texts(documents, "documents")
