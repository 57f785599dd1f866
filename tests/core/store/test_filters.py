import datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stx_core.errors import InputError, SpecError
from stx_core.store.corpus.filters import check_filters, filter_mask, keep_file, may_match

TABLE = pa.table({"n": [1, 2, None, 4], "s": ["a", "b", None, "d"]})


@pytest.mark.parametrize(
    ("condition", "passes"),
    [
        (("n", "==", 2), [0, 1, 0, 0]),
        (("n", "!=", 2), [1, 0, 0, 1]),
        (("n", "<", 2), [1, 0, 0, 0]),
        (("n", "<=", 2), [1, 1, 0, 0]),
        (("n", ">", 2), [0, 0, 0, 1]),
        (("n", ">=", 2), [0, 1, 0, 1]),
        (("n", "in", [1, 4]), [1, 0, 0, 1]),
        (("n", "not in", [1, 4]), [0, 1, 0, 0]),
        (("n", "in", []), [0, 0, 0, 0]),
        (("n", "is null", None), [0, 0, 1, 0]),
        (("n", "is not null", None), [1, 1, 0, 1]),
        (("s", "==", "b"), [0, 1, 0, 0]),
        (("s", ">=", "b"), [0, 1, 0, 1]),
    ],
)
def test_each_operator_passes_the_right_rows_and_null_only_is_null(condition, passes):
    assert filter_mask(TABLE, [condition], "f").to_pylist() == [bool(each) for each in passes]


def test_all_filters_must_hold_and_no_filter_passes_all():
    both = [("n", ">", 1), ("s", "<", "d")]

    assert filter_mask(TABLE, both, "f").to_pylist() == [False, True, False, False]
    assert filter_mask(TABLE, [], "f").to_pylist() == [True] * 4


def test_dictionaries_compare_as_their_values():
    table = pa.table({"s": TABLE["s"].dictionary_encode()})

    assert filter_mask(table, [("s", "in", ["a"])], "f").to_pylist() == [True, False, False, False]


def test_text_stands_for_dates_and_times():
    table = pa.table({"d": [datetime.date(2026, 1, 1), datetime.date(2026, 2, 1)]})

    assert filter_mask(table, [("d", ">=", "2026-01-15")], "f").to_pylist() == [False, True]


@pytest.mark.parametrize(("column", "value"), [("n", "2"), ("s", 2), ("n", "x")])
def test_a_value_of_another_type_is_an_error_that_names_both(column, value):
    with pytest.raises(InputError, match=f"f: a filter compares column '{column}'.*{value}"):
        filter_mask(TABLE, [(column, "==", value)], "f")


@pytest.mark.parametrize(
    "condition",
    [("a", "~", 1), ("a", "in", "abc"), ("a", "in", 1), ("a", "==", None), ("a", "<", [1])],
)
def test_a_filter_of_the_wrong_form_is_refused(condition):
    with pytest.raises(SpecError, match="filter on 'a'"):
        check_filters([condition])


operators = st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in", "not in"])


@given(st.lists(st.integers(0, 9), min_size=1), operators, st.integers(0, 9))
def test_bounds_never_exclude_a_row_that_passes(values, op, value):
    wanted = [value] if "in" in op else value
    passes = filter_mask(pa.table({"n": values}), [("n", op, wanted)], "f").to_pylist()

    assert may_match(min(values), max(values), op, wanted) or not any(passes)


def test_bounds_do_exclude():
    assert not may_match(1, 5, "==", 6)
    assert not may_match(1, 5, "<", 1)
    assert not may_match(1, 5, ">=", 6)
    assert not may_match(1, 5, "in", [0, 6])


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        (("lang", "==", "en"), True),
        (("lang", "in", ["de", "fr"]), False),
        (("year", ">=", 2024), True),
        (("year", "<", 2024), False),
        (("year", "==", "2024"), True),
        (("tag", "is null", None), True),
        (("name", "==", "a b"), True),
        (("elsewhere", "==", "x"), True),
    ],
)
def test_files_are_kept_or_left_out_by_their_partition(condition, kept):
    url = "s3://b/lang=en/year=2024/tag=__HIVE_DEFAULT_PARTITION__/name=a%20b/x.parquet"

    assert keep_file(url, [condition]) is kept


def test_a_partition_that_is_no_number_is_an_error():
    with pytest.raises(InputError, match="partition 'year'.*'new'"):
        keep_file("/year=new/x", [("year", ">", 2024)])


def test_integers_compare_with_fractions():
    assert filter_mask(TABLE, [("n", ">", 1.5)], "f").to_pylist() == [False, True, False, True]
    assert filter_mask(TABLE, [("n", "in", [1.5, 2])], "f").to_pylist() == [
        False, True, False, False,
    ]  # fmt: skip
