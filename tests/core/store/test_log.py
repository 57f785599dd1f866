import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stx_core.errors import CommitConflict, Fenced, RunActive, StoreError
from stx_core.store import beat, log
from stx_core.store.files.filesystem import read_bytes, write_new

EMPTY = {"outputs": {}, "segments": [], "rows": 0, "id_hash": f"{0:032x}"}


def commit(root, claim):
    return log.commit(root, claim.run, claim.epoch, EMPTY)


def test_a_new_place_has_no_log(root):
    assert log.latest(root) is None


def test_the_first_claim_opens_a_run_on_no_snapshot(root):
    claim = log.claim(root, "spec-a")

    assert (claim.epoch, claim.base, claim.resumed) == (1, 0, False)
    entry = log.latest(root)
    assert (entry.n, entry.kind, entry.previous) == (1, "claim", "")
    assert entry.state["runs"][claim.run]["state"] == "open"


def test_the_same_spec_resumes_its_open_run_with_a_higher_epoch(root):
    first = log.claim(root, "spec-a")
    other = log.claim(root, "spec-b")
    again = log.claim(root, "spec-a")

    assert (again.run, again.epoch, again.resumed) == (first.run, 2, True)
    assert other.run != first.run


def test_a_committed_run_is_over_and_the_next_claim_opens_another(root):
    first = log.claim(root, "spec-a")
    commit(root, first)

    second = log.claim(root, "spec-a")

    assert second.run != first.run
    assert (second.epoch, second.base, second.resumed) == (1, 1, False)


def test_committing_twice_changes_nothing_and_gives_the_first_entry(root):
    claim = log.claim(root, "spec-a")
    first = commit(root, claim)
    log.claim(root, "spec-b")

    assert commit(root, claim) == first
    assert log.latest(root).n == 3


def test_a_start_that_was_taken_over_is_fenced_and_publishes_nothing(root):
    stale = log.claim(root, "spec-a")
    fresh = log.claim(root, "spec-a")

    with pytest.raises(Fenced, match="start 2, this is start 1"):
        commit(root, stale)
    assert log.latest(root).state["snapshot"] is None
    assert commit(root, fresh).state["snapshot"]["version"] == 1


def test_a_run_that_nobody_claimed_is_fenced(root):
    log.claim(root, "spec-a")

    with pytest.raises(Fenced, match="not in the log"):
        log.commit(root, "nobody", 1, EMPTY)


def test_a_run_that_lost_the_race_conflicts_and_can_resume(root):
    slow = log.claim(root, "spec-a")
    commit(root, log.claim(root, "spec-b"))

    with pytest.raises(CommitConflict, match="builds on version 0, but version 1"):
        commit(root, slow)
    resumed = log.claim(root, "spec-a")
    assert (resumed.run, resumed.base) == (slow.run, 1)
    assert commit(root, resumed).state["snapshot"]["version"] == 2


def test_a_commit_that_loses_its_number_to_a_claim_is_tried_again(root, monkeypatch):
    claim = log.claim(root, "spec-a")
    create = log.create

    def interrupted(url, body):
        monkeypatch.setattr(log, "create", create)
        log.claim(root, "spec-b")
        return create(url, body)

    monkeypatch.setattr(log, "create", interrupted)

    entry = commit(root, claim)

    assert (entry.n, entry.state["snapshot"]["version"]) == (3, 1)
    assert len(entry.state["runs"]) == 2


def test_a_takeover_between_look_and_commit_fences(root, monkeypatch):
    stale = log.claim(root, "spec-a")
    create = log.create

    def interrupted(url, body):
        monkeypatch.setattr(log, "create", create)
        log.claim(root, "spec-a")
        return create(url, body)

    monkeypatch.setattr(log, "create", interrupted)

    with pytest.raises(Fenced):
        commit(root, stale)
    assert log.latest(root).state["snapshot"] is None


def test_claims_at_the_same_moment_get_different_epochs_of_one_run(root):
    start = threading.Barrier(6)

    def take(_):
        start.wait()
        return log.claim(root, "spec-a")

    with ThreadPoolExecutor(6) as pool:
        claims = list(pool.map(take, range(6)))

    assert len({claim.run for claim in claims}) == 1
    assert sorted(claim.epoch for claim in claims) == [1, 2, 3, 4, 5, 6]
    assert log.latest(root).n == 6


def test_each_entry_names_the_digest_of_the_one_before(root):
    for spec in "abc":
        log.claim(root, spec)

    entries = [log.read_entry(root, number) for number in (1, 2, 3)]

    assert [entry.previous for entry in entries] == ["", entries[0].digest, entries[1].digest]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", None])
def test_a_damaged_entry_is_a_hard_stop(root, data):
    log.claim(root, "spec-a")
    body = json.loads(read_bytes(log.entry_url(root, 1)))
    body["state"]["runs"] = {}
    write_new(log.entry_url(root, 2), json.dumps(body).encode() if data is None else data)

    with pytest.raises(StoreError, match=r"2\.json: damaged"):
        log.claim(root, "spec-a")


def test_a_newcomer_watches_for_a_minute_before_it_takes_over(root, time):
    log.claim(root, "spec-a")

    log.claim(root, "spec-a")

    assert 60 <= time.now < 65


def test_a_run_whose_holder_beats_is_not_taken(root, time):
    claim = log.claim(root, "spec-a")
    with log.hold(root, claim) as holder:
        time.during.append(holder.beat)

        with pytest.raises(RunActive, match=f"another start is at work on run {claim.run}"):
            log.claim(root, "spec-a")

    assert log.latest(root).n == 1


def test_a_holder_that_ended_with_an_error_is_followed_at_once(root, time):
    with pytest.raises(KeyboardInterrupt), log.hold(root, log.claim(root, "spec-a")):
        raise KeyboardInterrupt

    assert log.claim(root, "spec-a").epoch == 2
    assert time.now == 0


def test_a_holder_that_was_killed_here_is_followed_at_once(root, time, monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    killed = {**beat.this_process(), "pid": process.pid}
    killed["started"] = beat._start_ticks(process.pid)
    with monkeypatch.context() as patch:
        patch.setattr(log, "this_process", lambda: killed)
        log.claim(root, "spec-a")
    assert not beat.is_gone(killed)
    process.kill()
    process.wait()

    assert log.claim(root, "spec-a").epoch == 2
    assert time.now == 0


def test_a_paused_run_is_taken_at_once(root, time):
    claim = log.claim(root, "spec-a")
    entry = log.pause(root, claim.run, claim.epoch)
    assert (entry.kind, entry.state["runs"][claim.run]["state"]) == ("pause", "paused")

    again = log.claim(root, "spec-a")

    assert (again.run, again.epoch, again.resumed) == (claim.run, 2, True)
    assert log.latest(root).state["runs"][claim.run]["state"] == "open"
    assert time.now == 0


def test_a_paused_start_cannot_commit_and_pausing_twice_writes_once(root):
    claim = log.claim(root, "spec-a")
    first = log.pause(root, claim.run, claim.epoch)

    assert log.pause(root, claim.run, claim.epoch) == first
    with pytest.raises(Fenced, match="is paused"):
        commit(root, claim)


def test_a_start_that_was_taken_over_cannot_pause_the_run(root):
    stale = log.claim(root, "spec-a")
    log.claim(root, "spec-a")

    with pytest.raises(Fenced):
        log.pause(root, stale.run, stale.epoch)


def test_the_slower_of_two_watchers_watches_the_faster_one(root, time):
    stale = log.claim(root, "spec-a")
    faster = []

    def take_over():
        # At the end of the slower one's minute.
        if time.now >= 58 and not faster:
            faster.append(log.Claim(stale.run, 2, 0, True))
            log.append(root, "claim", raise_epoch)
            time.during.append(log.hold(root, faster[0]).beat)

    def raise_epoch(state, number):
        state["runs"][stale.run]["epoch"] = 2
        return state

    time.during.append(take_over)

    with pytest.raises(RunActive):
        log.claim(root, "spec-a")

    assert faster
    assert log.latest(root).state["runs"][stale.run]["epoch"] == 2


def test_a_missing_entry_is_a_hard_stop(root):
    log.claim(root, "spec-a")
    write_new(log.entry_url(root, 3), b"{}")

    with pytest.raises(StoreError, match="deleted or added by hand"):
        log.latest(root)


def test_a_log_of_a_newer_stx_is_not_touched(root):
    body = log.seal({"n": 1, "format": 2, "kind": "claim", "previous": "", "state": {}})
    write_new(log.entry_url(root, 1), json.dumps(body).encode())

    with pytest.raises(StoreError, match="use a newer stx"):
        log.claim(root, "spec-a")
