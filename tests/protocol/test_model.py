"""The production protocol in a simulated world, under schedules that hypothesis chooses.

A schedule says who makes how many requests, whose request gets lost, comes late or is refused, and
who dies. After each history the dataset must be what the runs that committed have planned.
"""

import copy
import functools
import inspect
import random
import uuid
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from stx_core.errors import CommitConflict, Pinned, StoreError
from stx_core.store import beat, clock, gc, ledger, log
from stx_core.store.commit import commit_snapshot, release, rollback
from stx_core.store.corpus.shards import Shard
from stx_core.store.corpus.units import Units, plan_units, unit_key
from stx_core.store.files import filesystem
from stx_core.store.files.filesystem import read_bytes, remove, write_new
from stx_core.store.id_hash import id_hash
from stx_core.store.log_state import pinned_version
from stx_core.store.manifest import planned_units
from stx_core.store.schema import QUARANTINE, dense_column, to_parquet
from stx_core.store.sealed import decode
from stx_core.store.snapshot import (
    read_manifest,
    snapshot_files,
    snapshot_info,
)
from stx_core.store.verify import find_problems

pytestmark = pytest.mark.faults

ROOT = "sim://bucket/out"
SCHEMA = pa.schema(
    [("id", pa.string()), ("embedding", pa.list_(pa.field("element", pa.float32()), 1))]
)
FACTS = {"fingerprint": "f" * 32}


@dataclass(frozen=True)
class Corpus:
    """What a run plans: shards of four rows with their identities, in units of two rows."""

    name: str
    shards: tuple[tuple[str, str], ...]

    @functools.cached_property
    def units(self):
        shards = [
            Shard(f"/corpus/{name}", identity, "parquet", 4, (0, 4), SCHEMA)
            for name, identity in self.shards
        ]
        return {unit_key(unit, {}): unit for unit in plan_units(shards, 2)}

    @functools.cached_property
    def ids(self):
        return Counter(name for unit in self.units.values() for name in ids_of(unit))


# The second edition has one shard changed, one the same, and a new one.
FIRST = Corpus("first", (("a", "1"), ("b", "1")))
SECOND = Corpus("second", (("a", "2"), ("b", "1"), ("c", "1")))


def ids_of(unit):
    return [f"{unit.url}@{unit.identity}:{row}" for row in range(unit.start, unit.stop)]


@functools.cache
def contents(unit):
    """Data file and quarantine file of a unit; of the first units the first row is bad."""
    ids = ids_of(unit)
    bad, good = (ids[:1], ids[1:]) if unit.start == 0 else ([], ids)
    vectors = dense_column(pa.array(range(len(good)), pa.float32()).to_numpy().reshape(-1, 1))
    data = to_parquet(pa.table([pa.array(good, pa.string()), vectors], schema=SCHEMA))
    columns = [pa.array(bad if f.name == "id" else [None] * len(bad), f.type) for f in QUARANTINE]
    return data, to_parquet(pa.table(columns, schema=QUARANTINE)), good, bad


def finish(claim, key, unit):
    """What a worker does with a unit."""
    data, quarantine, good, bad = contents(unit)
    stem = f"{key}-{claim.run}-{claim.epoch}-{uuid.uuid4().hex[:12]}.parquet"
    write_new(f"{ROOT}/data/dense/{stem}", data)
    if bad:
        write_new(f"{ROOT}/quarantine/{stem}", quarantine)
    hashes = [f"{id_hash(pa.array(ids, pa.string())):032x}" for ids in (good + bad, good, bad)]
    record = ledger.Record(
        key=key, output="dense", url=unit.url, identity=unit.identity, start=unit.start,
        stop=unit.stop, file=f"data/dense/{stem}", quarantine_file=f"quarantine/{stem}" * bool(bad),
        rows_in=2, rows_filtered=0, rows_out=len(good), rows_quarantined=len(bad),
        reasons={"null_text": 1} if bad else {}, id_hash_in=hashes[0], id_hash_out=hashes[1],
        id_hash_quarantined=hashes[2], n_tokens=0, n_truncated=0, size=len(data),
        checksum=xxhash.xxh3_128_hexdigest(data), file_rows=len(good),
        quarantine_size=len(quarantine) * bool(bad),
        quarantine_checksum=xxhash.xxh3_128_hexdigest(quarantine) * bool(bad),
        seconds={}, run=claim.run, epoch=claim.epoch,
    )  # fmt: skip
    return ledger.record(ROOT, claim.run, record)


def drive(world, corpus):
    """What a driver does: claim, let two workers finish what is due, commit."""
    for _ in range(3):
        try:
            claim = log.claim(ROOT, corpus.name)
            world.planned[claim.run] = corpus
            with log.hold(ROOT, claim) as held:
                units = corpus.units
                planned = planned_units(pa.array(list(units)), Units.of(units.values()))
                info = commit_snapshot(
                    ROOT, claim, {"dense": planned}, encode(world, claim, corpus, held),
                    {"dense": FACTS}, {"dense": SCHEMA},
                )  # fmt: skip
            world.told.append((claim.run, info.version))
            return
        except CommitConflict:
            continue
        except Pinned:
            return


def release_and_drive(world):
    if log.latest(ROOT):
        release(ROOT)
    drive(world, FIRST)


def encode(world, claim, corpus, held):
    """Records of a run: those of earlier starts, and what two workers do now."""
    records = ledger.load(ROOT, claim.run) if claim.resumed else ledger.to_table([])
    done = set(records["key"].to_pylist())
    if claim.base:
        done |= set(read_manifest(ROOT, claim.base)["key"].to_pylist())
    due = [(key, unit) for key, unit in corpus.units.items() if key not in done]
    folds = ledger.Folds(ROOT, claim.run, claim.epoch)

    def work(share):
        for key, unit in share:
            folds.add(finish(claim, key, unit))

    workers = [
        world.start(f"worker of {claim.run}", functools.partial(work, due[part::2]))
        for part in (0, 1)
    ]
    while not all(worker.is_done for worker in workers):
        held.beat()
        held.check()
        clock.sleep(5)
    return pa.concat_tables([records, folds.table()])


def roll_back(world):
    last = log.latest(ROOT)
    if last and last.state["kept"]:
        rollback(ROOT, min(map(int, last.state["kept"])))
        clock.sleep(5)
        release(ROOT)


def read(world):
    """What a reader sees that looks again and again; it may be told that a version has expired."""
    for _ in range(5):
        if (last := log.latest(ROOT)) and last.state["snapshot"]:
            version = snapshot_info(ROOT).version
            try:
                files = snapshot_files(ROOT, version=version)
                world.seen.append((version, Counter(name for file in files for name in ids(file))))
            except (StoreError, FileNotFoundError) as error:
                if str(version) in log.latest(ROOT).state["kept"]:
                    world.seen.append((version, error))
        clock.sleep(1)


def ids(url):
    return ids_in(read_bytes(url))


@functools.cache
def ids_in(data):
    return pq.read_table(pa.BufferReader(data), columns=["id"])["id"].to_pylist()


@pytest.fixture(autouse=True, scope="module")
def short_histories():
    """Who watches looks less often, and tables of ten rows take no threads."""
    n_threads = pa.cpu_count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beat, "_POLL_S", 20.0)
        pa.set_cpu_count(1)
        yield
        pa.set_cpu_count(n_threads)


ACTORS = {
    "driver": lambda world: drive(world, FIRST),
    "same driver": lambda world: drive(world, FIRST),
    "other driver": lambda world: drive(world, SECOND),
    "gc": lambda world: gc.gc(ROOT, keep=1, margin_s=0.0, abandon_after_s=0.0),
    "rollback": roll_back,
    "reader": read,
}
# Few actors meet more often than many do.
CASTS = st.lists(st.sampled_from(list(ACTORS)[1:]), min_size=1, max_size=3, unique=True)
WHO = st.integers(0, 3)
# "log": go on to where the actor is about to append to the log. Races are decided there.
STEP = st.one_of(
    st.tuples(st.just("log"), WHO, st.just(0)),
    st.tuples(st.just("log"), WHO, st.just(0)),
    st.tuples(st.just("run"), WHO, st.integers(1, 60)),
    st.tuples(st.sampled_from(["lost", "late", "refused", "crash", "land"]), WHO, st.just(0)),
)
STEPS = st.lists(STEP, min_size=5, max_size=25)
SCHEDULES = st.tuples(CASTS, STEPS)
BOUNDED = settings(max_examples=400, deadline=None, database=None, phases=[Phase.generate])


def play(world, schedule):
    """One history: the schedule, then everybody finishes, then one more driver."""
    world.planned, world.told, world.seen = {}, [], []
    names, steps = schedule
    cast = [
        world.start(name, functools.partial(ACTORS[name], world)) for name in ("driver", *names)
    ]
    try:
        for action, who, calls in steps:
            if action == "land":
                world.land(who)
            elif action in ("log", "run"):
                go_on(world, cast[who % len(cast)], action, calls)
            elif world.alive:
                hurt(world, world.alive[who % len(world.alive)], action)
        settle(world)
        last = world.start("last driver", functools.partial(release_and_drive, world))
        settle(world)
    finally:
        for actor in world.alive:
            world.crash(actor)
    return last.error


def hurt(world, actor, action):
    if action == "crash":
        world.crash(actor)
    else:
        actor.fault = action


def go_on(world, actor, action, calls):
    if action == "run":
        run(world, actor, calls)
    else:
        run(world, actor, 1)
        run(world, actor, 100, until=lambda: "/_stx/log/" in actor.about_to_create)


def run(world, actor, calls, until=lambda: False):
    """Let an actor, and whom it started, make some requests each."""
    for _ in range(calls):
        for one in [actor, *(other for other in world.alive if other.parent is actor)]:
            if until() or actor.is_done:
                return
            world.step(one)


def settle(world):
    """All requests arrive and all actors come to an end, one after the other."""
    while world.late:
        world.land(0)
    while world.alive:
        world.step(world.alive[-1])


def violations(world):
    """What is not as it should be at the end; each line names a rule."""
    chain = log_chain(world)
    runs_of = {e["state"]["snapshot"]["version"]: e["state"]["snapshot"]["run"]
               for e in chain if e["state"]["snapshot"]}  # fmt: skip
    yield from log_violations(chain)
    for run, version in world.told:
        if runs_of.get(version) != run:
            yield f"lost commit: run {run} was told that it is version {version}"
    for version in map(int, chain[-1]["state"]["kept"]):
        problems = list(find_problems(ROOT, version))
        yield from (f"damage: version {version}: {problem}" for problem in problems)
        if not problems and ids_of_version(version) != world.planned[runs_of[version]].ids:
            yield f"rows: version {version} has not each planned row once"
    last = 0
    for version, seen in world.seen:
        good = Counter(
            name
            for unit in world.planned[runs_of[version]].units.values()
            for name in contents(unit)[2]
        )
        if version < last or seen != good:
            yield f"reader: saw version {version} after {last} with {seen}"
        last = version


def log_chain(world):
    """The entries that the current one builds on, oldest first; also those that were deleted."""
    bodies = [decode(data) for path, data in world.created if "/_stx/log/" in path]
    by_digest = {body["digest"]: body for body in bodies}
    chain = [by_digest[log.latest(ROOT).digest]]
    while chain[-1]["previous"]:
        chain.append(by_digest[chain[-1]["previous"]])
    return chain[::-1]


def log_violations(chain):
    if [entry["n"] for entry in chain] != list(range(1, len(chain) + 1)):
        yield f"log: the numbers are {[entry['n'] for entry in chain]}"
    committed = Counter()
    for before, entry in pairwise([{"state": {"runs": {}}}, *chain]):
        was, state = before["state"]["runs"], entry["state"]
        for run in was.keys() & state["runs"].keys():
            if state["runs"][run]["epoch"] < was[run]["epoch"]:
                yield f"epoch: that of run {run} fell in entry {entry['n']}"
        if entry["kind"] != "commit":
            continue
        run = state["snapshot"]["run"]
        if pinned_version(before["state"]):
            yield f"hold: run {run} committed while a rollback held the version before"
        committed[run] += 1
        if committed[run] > 1:
            yield f"commit: run {run} committed twice"
        for segment in state["snapshot"]["segments"]:
            name = segment["file"].removeprefix("_stx/segments/")
            if name.startswith(run) and name.split("-")[2] != str(was[run]["epoch"]):
                yield f"fence: start {name.split('-')[2]} of run {run} committed after a newer one"


def ids_of_version(version):
    manifest = read_manifest(ROOT, version).to_pylist()
    names = [row[column] for row in manifest for column in ("file", "quarantine_file")]
    return Counter(name for file in names if file for name in ids(f"{ROOT}/{file}"))


def broken(world, schedule):
    """The rules that a history broke."""
    error = play(world, schedule)
    end = [f"end: the last driver failed: {error!r}"] if error else []
    return [*end, *violations(world)]


@settings(max_examples=150, deadline=None, print_blob=True)
@given(schedule=SCHEDULES)
def test_no_schedule_loses_or_doubles_a_row(new_world, schedule):
    assert broken(new_world(), schedule) == []


def change_source(patch, module, name, old, new):
    """Put a function in a module's place whose source differs in one spot."""
    source = inspect.getsource(getattr(module, name))
    assert source.count(old) == 1, f"{name} does not contain {old!r} once any more"
    namespace = dict(vars(module))
    exec(source.replace(old, new), namespace)
    patch.setattr(module, name, namespace[name])


def take_out_the_epoch_check(patch):
    old, new = (
        "_facts(root, state, run, epoch)",
        '_facts(root, state, run, state["runs"][run]["epoch"])',
    )
    change_source(patch, log, "commit", old, new)


def delete_old_log_entries(patch):
    """As if gc might: whoever looks takes the highest number, and the numbers below are free."""

    def latest(root):
        number = log.last_number(root)
        return log.read_entry(root, number) if number else None

    def collect(root, **options):
        done = collect_only(root, **options)
        last = log.latest(root)
        for number in {*range(1, last.n)} - {*last.state["kept"].values()}:
            remove(log.entry_url(root, number))
        return done

    collect_only = gc.gc
    patch.setattr(log, "latest", latest)
    patch.setattr(gc, "gc", collect)


def delete_before_the_fence(patch):
    """gc decides and deletes as ever, but tells the log only afterwards."""
    collect_only, fence_only = gc.gc, gc._fence

    def think(root, keep, keep_for_s, abandon_after_s, margin_s):
        last = log.latest(root)
        state = copy.deepcopy(last.state)

        def append(root, kind, change):
            nonlocal state
            state = change(copy.deepcopy(state), last.n + 1) or state
            return replace(last, n=last.n + 1, kind="gc", state=state)

        def modified_s(url):
            try:
                return filesystem.modified_s(url)
            except FileNotFoundError:  # the entry that is not there
                return clock.monotonic()

        patch.setattr(gc, "log", SimpleNamespace(**{**vars(log), "append": append}))
        patch.setattr(gc, "modified_s", modified_s)
        return fence_only(root, keep, keep_for_s, abandon_after_s, margin_s)

    def collect(root, keep, abandon_after_s, margin_s):
        collect_only(root, keep=keep, abandon_after_s=abandon_after_s, margin_s=margin_s)
        patch.setattr(gc, "log", log)
        patch.setattr(gc, "modified_s", filesystem.modified_s)
        fence_only(root, keep, None, abandon_after_s, margin_s)

    patch.setattr(gc, "_fence", think)
    patch.setattr(gc, "gc", collect)


@pytest.mark.parametrize(
    ("plant", "others", "rule", "seed"),  # one that is soon there; of others it takes longer
    [
        (take_out_the_epoch_check, ["same driver"], "fence: ", 1),
        (delete_old_log_entries, ["other driver", "gc"], "lost commit: ", 11),
        (delete_before_the_fence, ["gc"], "damage: ", 7),
    ],
)
def test_the_model_finds_a_planted_bug(new_world, plant, others, rule, seed):
    def is_found(schedule):
        with pytest.MonkeyPatch.context() as patch:
            plant(patch)
            return any(line.startswith(rule) for line in broken(new_world(), schedule))

    # Raises NoSuchExample if none of the schedules does it.
    schedules = st.tuples(st.just(others), STEPS)
    found = find(schedules, is_found, settings=BOUNDED, random=random.Random(seed))

    # It is the planted bug that does it, and nothing else.
    assert broken(new_world(), found) == []
