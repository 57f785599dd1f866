"""The class and the name of a CPU, as /proc/cpuinfo of different machines has them."""

import pytest

from stx_core import machine

INTEL = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile

processor\t: 1
model name\t: another
"""
AMD = "processor\t: 0\nmodel name\t: AMD EPYC 9654\nflags\t\t: fpu avx512f avx512_bf16\n"
OLD = "processor\t: 0\nmodel name\t: without avx512_bf16\nflags\t\t: fpu avx2\nbugs\t\t:\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"


@pytest.fixture
def cpu_info(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "cpuinfo")
    machine.cpu_class.cache_clear()
    yield tmp_path / "cpuinfo"
    machine.cpu_class.cache_clear()


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        (INTEL, "amx", "Intel(R) Xeon(R) Platinum 8480+"),
        (AMD, "avx512-bf16", "AMD EPYC 9654"),
        (OLD, "other", "without avx512_bf16"),
        (ARM, "other", "CPU"),
        (None, "other", "CPU"),
    ],
    ids=["amx", "avx512", "avx2", "arm", "no such file"],
)
def test_a_cpu_is_classed_by_its_units_for_bfloat16(text, kind, name, cpu_info):
    if text is not None:
        cpu_info.write_text(text)

    assert (machine.cpu_class(), machine.cpu_name()) == (kind, name)
