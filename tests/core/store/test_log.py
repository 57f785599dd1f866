import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stx_core.errors import CommitConflict, Fenced, StoreError
from stx_core.store import log
from stx_core.store.filesystem import read_bytes, write_new
from stx_core.store.urls import join

EMPTY = {"outputs": {}, "segments": [], "rows": 0, "id_hash": f"{0:032x}"}


def commit(root, claim):
    return log.commit(root, claim.run, claim.epoch, EMPTY)


def entry_url(root, number):
    return join(root, "_stx/log", f"{number:020d}.json")


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
    body = json.loads(read_bytes(entry_url(root, 1)))
    body["state"]["runs"] = {}
    write_new(entry_url(root, 2), json.dumps(body).encode() if data is None else data)

    with pytest.raises(StoreError, match=r"2\.json: damaged"):
        log.claim(root, "spec-a")


def test_a_missing_entry_is_a_hard_stop(root):
    log.claim(root, "spec-a")
    write_new(entry_url(root, 3), b"{}")

    with pytest.raises(StoreError, match="deleted or added by hand"):
        log.latest(root)


def test_a_log_of_a_newer_stx_is_not_touched(root):
    body = log.seal({"n": 1, "format": 2, "kind": "claim", "previous": "", "state": {}})
    write_new(entry_url(root, 1), json.dumps(body).encode())

    with pytest.raises(StoreError, match="use a newer stx"):
        log.claim(root, "spec-a")
