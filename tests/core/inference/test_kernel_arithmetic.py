"""Rounding of the kernels' registers, against exact fractions."""

import ctypes
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stx_core.inference import kernel_library
from tests.core.inference.kernels import (
    PORTABLE_FLAGS,
    needs_bfloat16_units,
    needs_compiler,
)

SMALLEST_NORMAL = Fraction(2) ** -126


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(kernel_library.COMPILER_FLAGS, marks=needs_bfloat16_units, id="avx512-bf16"),
        pytest.param(PORTABLE_FLAGS, id="portable"),
    ],
)
def arithmetic(request, tmp_path_factory):
    source = Path(__file__).with_name("arithmetic.cpp")
    library = tmp_path_factory.mktemp("arithmetic") / "arithmetic.so"
    headers = f"-I{kernel_library.SOURCES}"
    command = [shutil.which("c++"), *request.param, headers, "-shared", source, "-o", library]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


pytestmark = needs_compiler


def aligned(values, dtype):
    """Values at an address that a register may be loaded from."""
    memory = np.zeros(len(values) * 4 + 64, np.uint8)
    start = -memory.ctypes.data % 64
    array = memory[start : start + len(values) * np.dtype(dtype).itemsize].view(dtype)
    array[:] = values
    return array


def rounded(x, bits):
    """The nearest number of so many significant bits, of two the even one; subnormal ones zero."""
    if x == 0:
        return x
    exponent = abs(x.numerator).bit_length() - x.denominator.bit_length()
    exponent -= abs(x) < Fraction(2) ** exponent
    unit = Fraction(2) ** (exponent - bits + 1)
    nearest = round(x / unit) * unit
    return nearest if abs(nearest) >= SMALLEST_NORMAL else Fraction(0)


def fractions(bits):
    return [rounded(Fraction(float(x)), 24) for x in bits.view(np.float32)]


def random_bits(rng, n, exponents):
    """Float32 numbers of all fractions; exponents as they are stored, 0 for subnormal."""
    sign, fraction = rng.integers(0, 2, n), rng.integers(0, 1 << 23, n)
    return (sign << 31 | rng.integers(*exponents, n) << 23 | fraction).astype(np.uint32)


@pytest.mark.parametrize(
    ("of_sum", "of_factors"),
    [((110, 140), (115, 135)), ((0, 40), (50, 75)), ((0, 3), (0, 130)), ((127, 128), (121, 124))],
    ids=["near one", "near underflow", "subnormal", "halfway"],
)
def test_a_dot_of_pairs_adds_in_two_steps_each_rounded_once(arithmetic, of_sum, of_factors):
    rng = np.random.default_rng(0)
    n = 64 * 16
    sums = random_bits(rng, n, of_sum)
    high, low = (random_bits(rng, (2, n), of_factors) & 0xFFFF0000 for _ in range(2))
    pairs = [aligned(h | lo >> 16, np.uint32) for h, lo in zip(high, low, strict=True)]
    out = aligned(np.zeros(n), np.float32)
    start = aligned(sums, np.uint32)

    arrays = (start, *pairs, out)
    arithmetic.multiply_pairs_of(*(ctypes.c_void_p(a.ctypes.data) for a in arrays), n // 16)

    expected = fractions(sums)
    for factors in (high, low):
        products = [a * b for a, b in zip(*map(fractions, factors), strict=True)]
        expected = [rounded(s + p, 24) for s, p in zip(expected, products, strict=True)]
    assert [Fraction(float(x)) for x in out] == expected


def test_numbers_are_rounded_to_the_nearest_even_bfloat16(arithmetic):
    rng = np.random.default_rng(0)
    bits = random_bits(rng, 128 * 16, (0, 254))
    bits[:512] = bits[:512] & 0xFFFF0000 | 0x8000  # halfway
    out = aligned(np.zeros(len(bits)), np.uint16)
    start = aligned(bits, np.uint32)

    arguments = (ctypes.c_void_p(start.ctypes.data), ctypes.c_void_p(out.ctypes.data))
    arithmetic.to_bfloat16_of(*arguments, len(bits) // 16)

    widened = (out.astype(np.uint32) << 16).view(np.float32)
    assert [Fraction(float(x)) for x in widened] == [rounded(x, 8) for x in fractions(bits)]


def test_bfloat16_rounding_keeps_infinity_and_nan(arithmetic):
    # Infinities; NaN whose bits rounding would carry away, or cut to infinity; the largest number.
    bits = [0x7F800000, 0xFF800000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7F7FFFFF, 0, 0]
    start = aligned(bits * 2, np.uint32)
    out = aligned(np.zeros(16), np.uint16)

    arguments = (ctypes.c_void_p(start.ctypes.data), ctypes.c_void_p(out.ctypes.data))
    arithmetic.to_bfloat16_of(*arguments, 1)

    widened = (out[:6].astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(widened, [np.inf, -np.inf, *[np.nan] * 3, np.inf])


def test_exp2_is_accurate_to_a_part_of_bfloat16(arithmetic):
    start = aligned(np.linspace(-160, 127.9, 64 * 16), np.float32)
    out = aligned(np.zeros(64 * 16), np.float32)

    arguments = (ctypes.c_void_p(start.ctypes.data), ctypes.c_void_p(out.ctypes.data))
    arithmetic.exp2_of(*arguments, 64)

    np.testing.assert_allclose(out, np.exp2(start.astype(np.float64)), rtol=8e-5, atol=2e-45)
