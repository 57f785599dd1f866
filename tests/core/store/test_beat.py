import json
import os
import subprocess
import sys
from contextlib import suppress

import pytest

from stx_core.errors import Fenced, RunActive, StoreError
from stx_core.store import beat, log
from stx_core.store.beat import is_gone, read_beat, this_process, wait_until_silent
from stx_core.store.files.filesystem import read_bytes, write_over

RUN = "run-1"


@pytest.fixture
def stored(root):
    """Writes a beat of some start."""

    def write(epoch, counter, *, ended=False):
        body = {"epoch": epoch, "counter": counter, "ended": ended}
        write_over(beat.beat_url(root, RUN), json.dumps(body).encode())

    return write


def test_a_beat_is_of_one_start(root, stored):
    assert read_beat(root, RUN, 2) is None

    stored(2, 7)

    assert read_beat(root, RUN, 2) == beat.Beat(7, ended=False)
    assert read_beat(root, RUN, 3) is None


def test_a_beat_that_stands_still_is_watched_for_a_minute(root, stored, time):
    stored(2, 7)

    wait_until_silent(root, RUN, 2, {})

    assert 60 <= time.now < 65


def test_a_beat_that_changes_ends_the_watch_at_once(root, stored, time):
    stored(2, 7)
    time.during.append(lambda: time.now > 9 and stored(2, 8))

    with pytest.raises(RunActive, match="another start is at work on run run-1"):
        wait_until_silent(root, RUN, 2, {})

    assert time.now < 15


def test_beats_of_an_earlier_start_do_not_count(root, stored, time):
    # A stalled process that has not yet seen that it was taken over.
    time.during.append(lambda: stored(1, time.now))

    wait_until_silent(root, RUN, 2, {})

    assert time.now >= 60


def test_a_start_that_ends_while_it_is_watched_is_followed_at_once(root, stored, time):
    stored(2, 7)
    time.during.append(lambda: stored(2, 8, ended=True))

    wait_until_silent(root, RUN, 2, {})

    assert time.now < 5


def test_a_writer_is_gone_only_when_that_can_be_proved():
    here = this_process()

    assert not is_gone(here)
    assert not is_gone({})
    assert not is_gone({**here, "boot": "another machine", "pid": 2**22 + 1})
    assert not is_gone({**here, "pid_namespace": "another container", "pid": 2**22 + 1})
    assert is_gone({**here, "pid": 2**22 + 1})
    assert is_gone({**here, "started": here["started"] - 1})


def test_a_killed_process_that_its_parent_has_not_waited_for_is_gone():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    writer = {**this_process(), "pid": process.pid, "started": beat._start_ticks(process.pid)}
    assert not is_gone(writer)

    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert is_gone(writer)
    process.communicate()


def test_the_holder_beats_at_once_and_goes_on_by_itself(root, monkeypatch):
    monkeypatch.setattr(beat, "INTERVAL_S", 0.01)
    claim = log.claim(root, "spec")

    with log.hold(root, claim) as holder:
        first = read_bytes(beat.beat_url(root, claim.run))
        while read_bytes(beat.beat_url(root, claim.run)) == first:
            holder.check()

    assert not read_beat(root, claim.run, 1).ended


def test_an_error_ends_the_beat_and_says_so(root):
    claim = log.claim(root, "spec")

    with pytest.raises(StoreError), log.hold(root, claim):
        raise StoreError("disk full")

    assert read_beat(root, claim.run, 1).ended


def test_a_fenced_holder_leaves_the_beat_to_the_new_one(root):
    stale = log.claim(root, "spec")
    with suppress(Fenced), log.hold(root, stale):
        new = log.hold(root, log.claim(root, "spec"))
        new.beat()
        raise Fenced("taken over")

    assert read_beat(root, stale.run, 2) == beat.Beat(0, ended=False)


def test_every_third_beat_looks_at_the_log(root):
    stale = log.claim(root, "spec")
    holder = log.hold(root, stale)
    holder.beat()
    log.claim(root, "spec")

    holder.beat()
    holder.beat()
    with pytest.raises(Fenced, match="a newer start took over"):
        holder.beat()


def test_a_holder_that_was_taken_over_stops_at_the_next_check(root, monkeypatch):
    monkeypatch.setattr(beat, "INTERVAL_S", 0.01)
    # The newcomer does not watch.
    monkeypatch.setattr(beat, "TTL_S", 0)
    stale = log.claim(root, "spec")

    def work():
        with log.hold(root, stale) as holder:
            log.claim(root, "spec")
            while True:
                holder.check()

    with pytest.raises(Fenced):
        work()


def test_a_process_that_was_stopped_for_a_while_goes_on_if_nobody_took_over(root, time):
    claim = log.claim(root, "spec")
    holder = log.hold(root, claim)
    holder.beat()
    before = read_beat(root, claim.run, 1)

    time.now += 3600
    holder.check()

    assert read_beat(root, claim.run, 1).counter == before.counter + 1


def test_a_process_that_was_stopped_for_a_while_stops_if_it_was_taken_over(root, time):
    stale = log.claim(root, "spec")
    holder = log.hold(root, stale)
    holder.beat()
    log.claim(root, "spec")

    time.now += 3600
    with pytest.raises(Fenced):
        holder.check()


def test_a_holder_that_cannot_beat_stops_after_half_of_the_minute(root, time, monkeypatch):
    holder = log.hold(root, log.claim(root, "spec"))
    holder.beat()

    def refuse(url, data):
        raise StoreError("the store is away")

    monkeypatch.setattr(beat, "write_over", refuse)
    time.now += 29
    holder.check()

    time.now += 2
    with pytest.raises(StoreError, match=r"no sign of life could be written for 31 s \(the store"):
        holder.check()
