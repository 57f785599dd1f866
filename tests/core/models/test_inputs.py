import numpy as np
import pytest

from stx_core.errors import InputError
from stx_core.models.inputs import read_texts


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
def test_one_text_is_told_from_many(inputs):
    assert read_texts(inputs) == (["a"], True)


@pytest.mark.parametrize("inputs", [None, 3, 2.5, float("nan"), b"a", {"text": "a"}])
def test_trap_23_what_is_no_text_is_refused(inputs):
    with pytest.raises(InputError, match="must be a str or a list"):
        read_texts(inputs)


@pytest.mark.parametrize("value", [None, 3, float("nan"), b"a", ["a"], ("a", "b")])
def test_trap_23_a_row_that_is_no_text_is_named(value):
    with pytest.raises(InputError, match="input 1 is .*, expected str"):
        read_texts(["a", value])
