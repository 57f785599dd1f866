"""What the tests of kernels need of a machine."""

import shutil

import pytest

from stx_core.machine import cpu_class

NO_BFLOAT16_UNITS = "needs AVX-512 BF16"

needs_bfloat16_units = pytest.mark.skipif(cpu_class() == "other", reason=NO_BFLOAT16_UNITS)
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")

# As kernels/portable.h asks for: no product and sum as one where the sources have two.
PORTABLE_FLAGS = (
    "-std=c++17", "-O2", "-fPIC", "-fopenmp", "-DSTX_PORTABLE", "-march=native",
    "-ffp-contract=off", "-Wno-psabi",
)  # fmt: skip
