"""The SPLADE head beside the formula as it is usually written, in the same number format.

    taskset -c 0,1 python benchmarks/splade.py [--rounds 7] [--threads 2] [--json FILE]

32 texts of 40 to 128 tokens, width 768, vocabulary 30,522: BERT-base and DistilBERT. The usual way
makes logits of all padded tokens: ``max(log1p(relu(logits)) * mask)``. Ours pools real tokens, a
part of the vocabulary at a time, see `SpladePooling`.
"""

from side_by_side import compare, finish, median, parser, serve, versions

INPUTS, LONGEST, WIDTH, VOCABULARY = 32, 128, 768, 30522
STX, USUAL = "stx", "usual"


def prepare(name, arguments):
    import numpy as np
    import torch

    from stx_core.inference.packing import Layout
    from stx_core.machine import auto_dtype, keep_pages
    from stx_core.models.modules.splade_pooling import SpladePooling

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device("cpu")
    dtype = getattr(torch, arguments.dtype or auto_dtype(device))
    lengths = torch.randint(40, LONGEST + 1, (INPUTS,))
    mask = torch.arange(LONGEST) < lengths[:, None]
    states = torch.randn(INPUTS, LONGEST, WIDTH).to(dtype)
    head = torch.nn.Linear(WIDTH, VOCABULARY).to(dtype)
    with torch.no_grad():
        head.bias -= 1

    def usual():
        logits = head(states)
        return (torch.log1p(torch.relu(logits)) * mask[..., None]).amax(1)

    packed = states[mask]
    layout = Layout(np.asarray(lengths), len(packed), device)
    pooling = SpladePooling()

    def ours():
        features = {"layout": layout, "head_inputs": packed, "head": head}
        return pooling(features)["sentence_embedding"]

    if name == STX:
        keep_pages()
    run = torch.inference_mode()(ours if name == STX else usual)
    return lambda: run().float().numpy()


def describe(weights):
    return weights[:4, :2000].round(4).tolist()


def main():
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--dtype", help="default: what suits the machine")
    made.set_defaults(rounds=7)
    arguments = made.parse_args()
    if arguments.method:
        serve(lambda: prepare(arguments.method, arguments), describe)
        return
    methods = compare([STX, USUAL], arguments)
    ours, usual = methods
    differences = [
        abs(a - b)
        for left, right in zip(ours.result, usual.result, strict=True)
        for a, b in zip(left, right, strict=True)
    ]
    finish(
        {
            "versions": versions("torch"),
            "ms": {m.name: round(1000 * median(m.seconds), 1) for m in methods},
            "times_usual": round(median(usual.seconds) / median(ours.seconds), 2),
            "largest_difference": max(differences),
            "peak_mb": {m.name: round(m.peak_mb) for m in methods},
        },
        arguments,
    )


if __name__ == "__main__":
    main()
