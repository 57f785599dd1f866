"""Datasets of one state of stx, packed so that later states can be tested on them.

Every job wrote one dataset to its end, and others that stopped before it. All of it lay in a store
in memory, so that URLs and times, of which keys are made, are the same everywhere. Models lie in a
folder: what is made of them does not depend on where.

    PYTHONPATH=CHECKOUT python tests/golden/make.py tests/golden/COMMIT.tar.xz
"""

import json
import random
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stx.pipelines.encode import run_encode
from stx.pipelines.mine import run_mine
from stx.pipelines.rerank import run_rerank
from stx.pipelines.retrieve import run_retrieve
from stx.pipelines.spec.encode import EncodeSpec
from stx.pipelines.spec.file import parse_spec
from stx.pipelines.spec.retrieval import MineSpec, RerankSpec, RetrieveSpec
from stx_core.errors import Stopped
from stx_core.store import ledger, log
from stx_core.store.snapshot import read_manifest, snapshot_info

ROOT = "memory://earlier"
MODELS = "MODELS"
"""Stands for the folder of the models in specs."""

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet"]
TODAY = 20
LOCAL = {"runner": "local", "supervised": False}

JOBS: dict[str, tuple[type[Any], Callable[..., Any]]] = {
    "encode": (EncodeSpec, run_encode),
    "retrieve": (RetrieveSpec, run_retrieve),
    "rerank": (RerankSpec, run_rerank),
    "mine": (MineSpec, run_mine),
}


class Units:
    """A view that counts finished units, and may stop the run after some."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after, self.n_finished = stop_after, 0

    def plan(self, plan: object) -> None:
        """Nothing to show."""

    def watch(self, results: Iterator[Any], plan: object) -> Iterator[Any]:
        for result in results:
            self.n_finished += 1
            yield result
            if self.n_finished == self.stop_after:
                raise KeyboardInterrupt


def put(name: str, data: bytes, day: int) -> None:
    """An object in the store, as if written on a day of one month."""
    memory = fsspec.filesystem("memory")
    memory.pipe_file(f"/earlier/{name}", data)
    memory.store[f"/earlier/{name}"].modified = datetime(2026, 1, day, tzinfo=UTC)


def texts(n_rows: int, seed: int) -> list[str | None]:
    """Different texts of two to seven words, every 23rd of them null or blank."""
    choose = random.Random(seed)
    rows: list[str | None] = [
        " ".join(choose.choices(WORDS, k=choose.randint(2, 7))) + f" {seed}{i}"
        for i in range(n_rows)
    ]
    rows[5::23] = [None if place % 2 else "  " for place in range(len(rows[5::23]))]
    return rows


def put_table(name: str, ids: list[str], rows: list[str | None], day: int) -> None:
    """A Parquet file of texts."""
    sides = [i % 2 for i in range(len(rows))]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": ids, "text": rows, "side": sides}), sink, row_group_size=16)
    put(name, sink.getvalue().to_pybytes(), day)


def put_shard(name: str, rows: list[str | None], first_id: int, day: int) -> None:
    """A shard of the corpus; its ids are numbers."""
    put_table(f"corpus/{name}", [f"d{first_id + i:03}" for i in range(len(rows))], rows, day)


def save_models(folder: Path) -> None:
    """A static model, a sparse one and a cross-encoder, with random weights and few words."""
    import torch
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        BertForSequenceClassification,
        BertTokenizer,
    )

    module = folder / "static/0_StaticEmbedding"
    module.mkdir(parents=True)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(["[UNK]", *WORDS])}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(module / "tokenizer.json"))
    weights = np.random.default_rng(0).standard_normal((len(WORDS) + 1, 8)).astype(np.float32)
    save_file({"embedding.weight": weights}, module / "model.safetensors")
    kind = "sentence_transformers.models.StaticEmbedding"
    entry = {"idx": 0, "name": "0", "path": module.name, "type": kind}
    (folder / "static/modules.json").write_text(json.dumps([entry]))

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*special, *WORDS, *"0123456789", *(f"##{digit}" for digit in "0123456789")]
    sizes = {
        "vocab_size": len(vocabulary),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 64,
        "initializer_range": 0.5,
    }
    heads = {"splade": BertForMaskedLM, "judge": BertForSequenceClassification}
    for name, head in heads.items():
        torch.manual_seed(1)
        head(BertConfig(**sizes, num_labels=1)).save_pretrained(folder / name)
        words = {token: i for i, token in enumerate(vocabulary)}
        BertTokenizer(vocab=words).save_pretrained(folder / name)


def encode_spec(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "inputs": {"path": f"{ROOT}/corpus", "columns": ["side"]},
        "models": {
            "dense": {"model": f"{MODELS}/static", "dtype": "float32"},
            "splade": {"model": f"{MODELS}/splade", "type": "sparse", "dtype": "float32"},
        },
        "output": {"path": f"{ROOT}/{name}"},
        "resources": {**LOCAL, "rows_per_unit": 30},
    } | changes


def queries_spec(name: str) -> dict[str, Any]:
    spec = encode_spec(name, inputs={"path": f"{ROOT}/queries.parquet", "columns": ["side"]})
    for model in spec["models"].values():
        model["task"] = "query"
    return spec


def retrieve_spec(name: str) -> dict[str, Any]:
    return {
        "queries": {"path": f"{ROOT}/queries"},
        "corpus": {"path": f"{ROOT}/encode"},
        "k": 12,
        "fusion": {"method": "rrf"},
        "positives": f"{ROOT}/qrels.tsv",
        "output": {"path": f"{ROOT}/{name}"},
        "resources": {**LOCAL, "rows_per_unit": 8, "rows_per_group": 120},
    }


def rerank_spec(name: str) -> dict[str, Any]:
    return {
        "candidates": {"path": f"{ROOT}/retrieve", "output": "hybrid", "depth": 6},
        "queries": {"path": f"{ROOT}/queries.parquet"},
        "documents": {"path": f"{ROOT}/corpus"},
        "rerankers": {"judge": {"model": f"{MODELS}/judge", "dtype": "float32"}},
        "positives": f"{ROOT}/qrels.tsv",
        "output": {"path": f"{ROOT}/{name}"},
        "resources": {**LOCAL, "rows_per_unit": 30},
    }


def mine_spec(name: str) -> dict[str, Any]:
    return {
        "candidates": {
            "dense": {"path": f"{ROOT}/retrieve"},
            "hybrid": {"path": f"{ROOT}/retrieve"},
        },
        "positives": f"{ROOT}/qrels.tsv",
        "queries": {"path": f"{ROOT}/queries.parquet"},
        "documents": {"path": f"{ROOT}/corpus"},
        "rules": {"same_content": True, "num_negatives": 2},
        "formats": ["ids", "triplet", "n-tuple", "labeled-list"],
        "scores": True,
        "output": {"path": f"{ROOT}/{name}"},
        "resources": {**LOCAL, "rows_per_unit": 100},
    }


class Lake:
    """The datasets as they are made; their specs, and what a later test needs to know of them.

    Args:
        models: folder of the models.
    """

    def __init__(self, models: Path) -> None:
        self.models = models
        self.datasets: dict[str, dict[str, Any]] = {}

    def run(self, job: str, values: dict[str, Any], view: Units | None = None) -> None:
        """Run a job to its end, or until it stops."""
        run_job(job, values, self.models, view)

    def keep(self, name: str, job: str, values: dict[str, Any], equal_to: str = "") -> None:
        """Note a dataset; one whose run stopped names another that it is to be equal to."""
        entry = log.latest(f"{ROOT}/{name}")
        assert entry is not None
        facts: dict[str, Any] = {"job": job, "spec": values}
        if equal_to:
            (run,) = (run for run, it in entry.state["runs"].items() if it["state"] == "paused")
            records = ledger.load(f"{ROOT}/{name}", run)
            assert len(records), name
            facts |= {
                "equal_to": equal_to,
                "run": run,
                "run_hash": entry.state["runs"][run]["spec_hash"],
                "finished": sorted(records["file"].to_pylist()),
            }
        else:
            facts |= {
                "version": snapshot_info(f"{ROOT}/{name}").version,
                "keys": sorted(read_manifest(f"{ROOT}/{name}")["key"].to_pylist()),
            }
        self.datasets[name] = facts


def run_job(job: str, values: dict[str, Any], models: Path, view: Units | None = None) -> Any:
    """Run a spec whose models lie in a folder."""
    kind, run = JOBS[job]
    filled = json.loads(json.dumps(values).replace(MODELS, str(models)))
    return run(parse_spec(filled, kind=kind), view)


def stopped(lake: Lake, job: str, values: dict[str, Any], *, n_units: int) -> None:
    """Run a job until `resources.max_units` ends it."""
    limited = {**values, "resources": {**values["resources"], "max_units": n_units}}
    try:
        lake.run(job, limited)
    except Stopped:
        return
    raise AssertionError(f"{values['output']['path']}: the run came to its end")


def make_encoded(lake: Lake) -> None:
    """Three states of a corpus: all of it, some edits and a new shard, one partition backfilled."""
    day_1, more, day_2 = texts(60, 1), texts(45, 2), texts(40, 3)
    put_shard("day=1/part-0.parquet", day_1, 0, day=1)
    put_shard("day=1/part-1.parquet", more, 60, day=1)
    put_shard("day=2/part-0.parquet", day_2, 105, day=1)
    names = ("encode", "encode-stopped", "backfill-stopped")
    for name in names:
        lake.run("encode", encode_spec(name))
    more[3], more[30] = "amber amber heath", "cedar"
    put_shard("day=1/part-1.parquet", more, 60, day=2)
    put_shard("day=2/part-1.parquet", texts(30, 4), 145, day=2)
    for name in ("encode", "backfill-stopped"):
        lake.run("encode", encode_spec(name))
    day_2[0], day_2[39] = "delta fjord", "heath"
    put_shard("day=2/part-0.parquet", day_2, 105, day=3)
    backfill = {"partitions": [["day", "==", 2]]}
    lake.run("encode", encode_spec("encode", backfill=backfill))
    lake.keep("encode", "encode", encode_spec("encode"))
    whole, part = encode_spec(names[1]), encode_spec(names[2], backfill=backfill)
    stopped(lake, "encode", whole, n_units=3)
    lake.keep(names[1], "encode", whole, equal_to="encode")
    stopped(lake, "encode", part, n_units=1)
    lake.keep(names[2], "encode", part, equal_to="encode")


def make_queries(lake: Lake) -> None:
    """Queries of three words, and two judged documents of each."""
    ids = [f"q{i:02}" for i in range(24)]
    asked = [" ".join(random.Random(i).sample(WORDS, 3)) for i in range(24)]
    put_table("queries.parquet", ids, asked, day=1)
    lines = ["query-id\tcorpus-id\tscore"]
    for i, query in enumerate(ids):
        lines += [f"{query}\td{(7 * i + further) % 170:03}\t1" for further in (0, 61)]
    put("qrels.tsv", ("\n".join(lines) + "\n").encode(), day=1)
    lake.run("encode", queries_spec("queries"))
    lake.keep("queries", "encode", queries_spec("queries"))


def make_others(lake: Lake) -> None:
    """Rankings, their reranking and hard negatives; each to its end, and stopped on the way."""
    specs = {"retrieve": retrieve_spec, "rerank": rerank_spec, "mine": mine_spec}
    for job, spec in specs.items():
        lake.run(job, spec(job))
        lake.keep(job, job, spec(job))
        name = f"{job}-stopped"
        stopped(lake, job, spec(name), n_units=2)
        lake.keep(name, job, spec(name), equal_to=job)
    # All cells are there, and one block of queries is merged.
    name = "merge-stopped"
    n_cells = sum(unit == "cells" for unit in _outputs("retrieve"))
    try:
        lake.run("retrieve", retrieve_spec(name), Units(stop_after=n_cells + 1))
    except KeyboardInterrupt:
        lake.keep(name, "retrieve", retrieve_spec(name), equal_to="retrieve")


def _outputs(name: str) -> list[str]:
    """Output of each record of the run that committed."""
    run = snapshot_info(f"{ROOT}/{name}").run
    return ledger.load(f"{ROOT}/{name}", run)["output"].to_pylist()


def pack(folder: Path, archive: Path) -> None:
    """Put the store in memory, and what lies in a folder, into an archive."""
    memory = fsspec.filesystem("memory")
    for path in sorted(memory.find("/earlier")):
        target = folder / "store" / path.removeprefix("/earlier/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(memory.cat_file(path))
    days = {
        path.removeprefix("/earlier/"): memory.modified(path).day
        for path in memory.find("/earlier")
        if not memory.modified(path).timestamp() % 86400
    }
    (folder / "days.json").write_text(json.dumps(days))

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        return member

    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name, filter=plain)


def unpack(archive: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Put an archive into a folder and the store in memory; what is known of its datasets."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    days = json.loads((folder / "days.json").read_text())
    for path in sorted((folder / "store").rglob("*")):
        if path.is_file():
            name = path.relative_to(folder / "store").as_posix()
            put(name, path.read_bytes(), days.get(name, TODAY))
    datasets: dict[str, dict[str, Any]] = json.loads((folder / "datasets.json").read_text())
    return datasets


def main(archive: Path) -> None:
    """Make all datasets and pack them."""
    folder = Path(tempfile.mkdtemp(prefix="golden-"))
    save_models(folder / "models")
    lake = Lake(folder / "models")
    make_encoded(lake)
    make_queries(lake)
    make_others(lake)
    (folder / "datasets.json").write_text(json.dumps(lake.datasets, indent=1))
    pack(folder, archive)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
