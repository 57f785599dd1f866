import datetime
import operator

import pyarrow as pa
import pytest
from hypothesis import given, settings
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


def test_bounds_exclude_what_cannot_match():
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


INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
wild = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([-1, 0, 127, 128, 255, 256, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([7.5, -0.5, 2.0**63, 9007199254740992.5, float("inf"), float("-inf")]),
)
PYTHON = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(INTEGERS), st.sampled_from(sorted(PYTHON)), wild)
def test_integers_of_any_width_compare_as_numbers(kind, op, value):
    top = 2 ** (int(kind.lstrip("uint")) - (not kind.startswith("u"))) - 1
    numbers = [0, 1, 7, 8, top - 1, top, *([] if kind.startswith("u") else [-1, -top - 1])]
    table = pa.table({"n": pa.array([*numbers, None], kind)})

    passes = filter_mask(table, [("n", op, value)], "f").to_pylist()

    assert passes == [*(PYTHON[op](number, value) for number in numbers), False]


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(INTEGERS), st.lists(wild, max_size=3))
def test_sets_of_numbers_may_hold_what_the_column_cannot(kind, values):
    table = pa.table({"n": pa.array([0, 7, 100, None], kind)})

    inside = filter_mask(table, [("n", "in", values)], "f").to_pylist()
    outside = filter_mask(table, [("n", "not in", values)], "f").to_pylist()

    assert inside == [number in values for number in (0, 7, 100)] + [False]
    assert outside == [number not in values for number in (0, 7, 100)] + [False]


@pytest.mark.parametrize(
    ("kind", "values", "condition", "passes"),
    [
        ("float16", [0.5, 1.5, None], ("<", 1), [1, 0, 0]),
        ("float16", [0.1, 1.5, None], ("in", [0.1, 9]), [1, 0, 0]),
        ("float16", [0.5, 70000, None], ("!=", 0.5), [0, 1, 0]),
        ("float", [0.5, 1e30, None], (">", 2**70), [0, 1, 0]),
        ("double", [0.5, 2.0**80, None], ("==", 2**80), [0, 1, 0]),
        (pa.decimal128(5, 2), [1, 2, None], (">=", 2), [0, 1, 0]),
        (pa.decimal256(60, 2), [1, 2, None], ("==", 2), [0, 1, 0]),
        (pa.timestamp("ns"), [1, 1000, None], ("<", "1970-01-01T00:00:00.000001"), [1, 0, 0]),
    ],
)
def test_numbers_and_times_of_every_type_compare(kind, values, condition, passes):
    table = pa.table({"n": pa.array(values, kind)})

    assert filter_mask(table, [("n", *condition)], "f").to_pylist() == list(map(bool, passes))


@pytest.mark.parametrize(
    "column", [[{"a": 1}], [[1]], pa.array([[("k", 1)]], pa.map_("string", "int8"))]
)
@pytest.mark.parametrize("value", ["x", 1, 2**65, datetime.date(2026, 1, 1)])
def test_columns_that_have_no_order_are_refused_in_one_line(column, value):
    table = pa.table({"n": column})

    with pytest.raises(InputError, match="f: a filter compares column 'n'"):
        filter_mask(table, [("n", "==", value)], "f")
    assert filter_mask(table, [("n", "is not null", None)], "f").to_pylist() == [True]
