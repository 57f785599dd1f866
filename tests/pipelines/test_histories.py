"""Any history of edits and interrupted runs ends in what a run from nothing gives, row for row."""

import hashlib
import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from stx.pipelines.encode import run_encode
from stx.pipelines.encoding import stages
from stx.pipelines.engine.runs import View
from stx.pipelines.spec.file import parse_spec
from stx_core.errors import StoreError
from stx_core.store.snapshot import open_snapshot, read_manifest, snapshot_info

WORDS = ("plants", "eat", "light", "rivers")
DIMENSIONS = 8
ROWS_PER_UNIT = 4
SETTINGS = ({}, {"truncate_dim": 6}, {"truncate_dim": 3}, {"normalize": True})

# Few different texts, so that they repeat and come back; bad rows among them.
TEXTS = st.one_of(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join),
    st.sampled_from([None, " "]),
)
ROWS = st.lists(st.tuples(TEXTS, st.sampled_from(["en", "de"])), max_size=9)
NAMES = st.sampled_from("abc")
EDITS = st.one_of(
    st.tuples(st.just("append"), NAMES, ROWS),
    st.tuples(st.just("change"), NAMES, st.integers(0, 20), TEXTS),
    st.tuples(st.just("delete"), NAMES, st.integers(0, 20)),
    st.tuples(st.just("rename"), NAMES, NAMES),
    st.tuples(st.just("reorder"), NAMES, st.randoms(use_true_random=False)),
    st.tuples(st.just("reshard"), st.integers(1, 4)),
    st.tuples(st.just("touch"), NAMES),
    st.tuples(st.just("columns"), st.sampled_from([[], ["lang"]])),
    st.tuples(st.just("model"), st.sampled_from(SETTINGS)),
    st.tuples(st.just("second output"), st.sampled_from(SETTINGS)),
)
# Edits, and the number of units after which the next start is interrupted (None: it is not).
STEPS = st.lists(
    st.tuples(st.lists(EDITS, max_size=3), st.sampled_from([None, None, 1, 2])), max_size=5
)


class Corpus:
    """Shards as lists of (id, text, lang), with the edits that people make."""

    def __init__(self, rows):
        self.shards, self.n_ids, self.stale = {"a": []}, 0, set()
        self.copied, self.models = [], {"dense": {}}
        self.append("a", rows)

    def edit(self, kind, *values):
        getattr(self, kind.replace(" ", "_"))(*values)

    def append(self, name, rows):
        new = [(f"d{self.n_ids + i}", text, lang) for i, (text, lang) in enumerate(rows)]
        self.n_ids += len(new)
        self.put(name, [*self.shards.get(name, []), *new])

    def change(self, name, at, text):
        rows = self.shards.get(name, [])
        self.put(name, [(id_, text, lang) if i == at else (id_, old, lang)
                        for i, (id_, old, lang) in enumerate(rows)])  # fmt: skip

    def delete(self, name, at):
        rows = self.shards.get(name, [])
        self.put(name, rows[:at] + rows[at + 1 :])

    def rename(self, old, new):
        if old in self.shards:
            self.put(new, self.shards.pop(old))

    def reorder(self, name, random):
        rows = [*self.shards.get(name, [])]
        random.shuffle(rows)
        self.put(name, rows)

    def reshard(self, n_shards):
        rows = [row for shard in self.shards.values() for row in shard]
        self.shards = {}
        for i in range(n_shards):
            self.put("abcd"[i], rows[i::n_shards])

    def touch(self, name):
        self.put(name, self.shards.get(name, []))

    def columns(self, names):
        self.copied = names

    def model(self, values):
        self.models["dense"] = values

    def second_output(self, values):
        self.models["second"] = values

    def put(self, name, rows):
        self.shards[name] = rows
        self.stale.add(name)

    def write(self, folder):
        """Write the shards that were edited since the last call; leave the others untouched."""
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            if path.stem not in self.shards:
                path.unlink()
        for name in self.stale & self.shards.keys():
            columns = zip(*self.shards[name], strict=True) if self.shards[name] else ([], [], [])
            arrays = [pa.array(column, pa.string()) for column in columns]
            table = pa.table(arrays, names=["id", "text", "lang"])
            pq.write_table(table, folder / f"{name}.parquet", row_group_size=5)
        self.stale.clear()


class Stopping(View):
    """Keeps the plan and counts units; interrupts the run after some."""

    def __init__(self, stop_after):
        self.stop_after, self.n_units, self.seen = stop_after, 0, None

    def plan(self, plan):
        self.seen = plan

    def watch(self, results, plan):
        for result in results:
            self.n_units += 1
            yield result
            if self.n_units == self.stop_after:
                raise KeyboardInterrupt


class Counted:
    """An encoder that remembers the texts it is given."""

    def __init__(self, encoder, given):
        self.encoder, self.settings, self.given = encoder, encoder.settings, given

    def embed(self, texts):
        self.given += texts
        return self.encoder.embed(texts)


def spec_for(folder, corpus, model, out):
    return parse_spec(
        {
            "inputs": {"path": str(folder / "corpus"), "columns": corpus.copied},
            "models": {name: {"model": str(model), **v} for name, v in corpus.models.items()},
            "output": {"path": str(folder / out)},
            # Edits empty the corpus, or leave less than half of it.
            "quality": {"accept": True},
            "resources": {"runner": "local", "rows_per_unit": ROWS_PER_UNIT, "supervised": False},
        }
    )


def start(spec, stop_after=None):
    """Run a start, perhaps to its interruption; check what it gave the encoder."""
    root, given, view = spec.output.path, [], Stopping(stop_after)
    base = hashes_by_unit(root)
    encode_texts = stages.encode_texts
    counting = mock.patch.object(
        stages,
        "encode_texts",
        lambda encoder, texts, *tokens: encode_texts(Counted(encoder, given), texts),
    )
    with counting:
        try:
            run_encode(spec, view)
        except KeyboardInterrupt:
            event("interrupted")
    if view.seen is None:
        assert given == []
        return
    expected = [
        text
        for due in view.seen.due_units()[: view.n_units]
        for name in due.keys
        for text in texts_of(due.unit) - known_texts(view.seen, name, base)
    ]
    event("carried over some" if len(given) < view.n_units else "encoded")
    assert Counter(hash_of(text) for text in given) == Counter(expected)


def hash_of(text):
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def texts_of(unit):
    """Hashes of the texts of a unit that can be encoded."""
    column = pq.read_table(unit.url, columns=["text"]).column(0)[unit.start : unit.stop]
    return {hash_of(text) for text in column.to_pylist() if text and text.strip()}


def hashes_by_unit(root):
    """Of the current snapshot: settings of each output, and hashes in the files of its units."""
    try:
        facts = snapshot_info(root).outputs
    except StoreError:
        return {}
    found = {name: (facts[name]["settings"], {}) for name in facts}
    for row in read_manifest(root).to_pylist():
        if row["file"]:
            column = pq.read_table(Path(root, row["file"]), columns=["content_hash"]).column(0)
            found[row["output"]][1][row["key"]] = set(column.to_pylist())
    return found


def known_texts(plan, name, base):
    """Hashes that need not be encoded: in files of the base that are not carried over as such."""
    wanted = plan.parts[name].settings
    for exact in (True, False):
        for other in sorted(base, key=lambda other: other != name):
            had, units = base[other]
            length = had["truncate_dim"] or DIMENSIONS
            same = wanted.truncate_dim == had["truncate_dim"]
            fits = same if exact else wanted.truncate_dim and wanted.truncate_dim < length
            if fits and wanted.normalize == had["normalize"]:
                left = units.keys() - (set(plan.parts[name].keys) if other == name else set())
                return set().union(*(units[key] for key in left))
    return set()


def content(root, names):
    """Rows of each output with all their values, in any order; and the quarantined ids."""
    rows = {
        name: Counter(repr(sorted(row.items())) for row in
                      open_snapshot(str(root), output=name).to_table().to_pylist())
        for name in names
    }  # fmt: skip
    manifest = read_manifest(str(root)).to_pylist()
    bad = Counter((row["output"], row["id_hash_quarantined"]) for row in manifest
                  if row["rows_quarantined"])  # fmt: skip
    return rows, bad


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=ROWS, steps=STEPS)
def test_any_history_ends_in_what_a_run_from_nothing_gives(static_model, rows, steps):
    with tempfile.TemporaryDirectory() as name:
        folder, corpus = Path(name), Corpus(rows)
        for edits, stop_after in [*steps, ([], None)]:
            for edit in edits:
                corpus.edit(*edit)
            corpus.write(folder / "corpus")
            start(spec_for(folder, corpus, static_model, "out"), stop_after)
        run_encode(spec_for(folder, corpus, static_model, "fresh"))

        assert content(folder / "out", corpus.models) == content(folder / "fresh", corpus.models)
