"""The gate leaves out what would not be done before the deadline, and knows what is in flight."""

import pytest

from stx.pipelines.running.gate import Gate


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_gate_without_a_deadline_never_closes(clock):
    gate = Gate(None, clock)
    clock.now += 1e9

    assert gate.admit("a")


def test_the_gate_closes_when_the_longest_unit_so_far_would_miss_the_deadline(clock):
    gate = Gate(120, clock)
    for unit, seconds in (("a", 20), ("b", 40), ("c", 10)):
        assert gate.admit(unit)
        clock.now += seconds
        gate.finish(unit)

    # 50 s are left; the longest took 40, and the next may take a quarter more.
    assert not gate.is_open()
    assert not gate.admit("d")
    assert gate.in_flight() == []


def test_the_gate_stays_open_while_one_more_unit_fits(clock):
    gate = Gate(100, clock)
    gate.admit("a")
    clock.now += 20
    gate.finish("a")
    clock.now += 50

    assert gate.admit("b")


def test_a_deadline_that_is_over_lets_nothing_through(clock):
    assert not Gate(-1, clock).admit("a")


def test_the_gate_tracks_units_in_flight_and_idle_time(clock):
    gate = Gate(None, clock)
    gate.admit("a")
    gate.admit("b")
    clock.now += 5
    gate.finish("a")
    clock.now += 7

    assert gate.in_flight() == ["b"]
    assert gate.idle_s() == 7
    gate.beat()
    assert gate.idle_s() == 0


def test_the_gate_counts_attempts_until_a_unit_finishes(clock):
    gate = Gate(None, clock)

    assert [gate.admit("a"), gate.admit("b"), gate.admit("a")] == [1, 1, 2]
    gate.finish("a")
    assert gate.admit("a") == 1


def test_the_gate_accepts_a_unit_that_finishes_twice(clock):
    gate = Gate(None, clock)
    gate.admit("a")
    gate.finish("a")
    gate.finish("a")

    assert gate.in_flight() == []


def test_the_first_unit_may_take_longer_than_those_after_it(clock):
    gate = Gate(None, clock, patience_s=1000)
    clock.now += 900
    assert gate.idle_s() < 0

    gate.admit("a")
    clock.now += 5

    assert gate.idle_s() == 5
