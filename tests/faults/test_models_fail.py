"""A text that kills, hangs or bloats the model; vectors that are no numbers; a model that is none.

The model is a real folder with code of its own, which does what a word in a text tells it to.
"""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from tests.faults import check

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

# Words of the tiny tokenizer, and what the model does when it reads one.
ABORT, HANG, KILL, HALF_NAN, NAN, LARGE = "sunny", "stadium", "outside", "lovely", "drove", "long"

CODE = f"""
import json, os, signal, time
from pathlib import Path
import torch
from transformers import BertModel

FOLDER = Path({{folder!r}})
WORDS = json.loads((FOLDER / "words.json").read_text())

class Fragile(BertModel):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        with Path(f"{{{{FOLDER}}}}.loads").open("a") as file:
            file.write("loaded ")

    def forward(self, input_ids=None, attention_mask=None, **others):
        def holds(word):
            return bool((input_ids == WORDS[word]).any())
        if holds("{ABORT}"):
            os.abort()
        if holds("{KILL}"):
            os.kill(os.getpid(), signal.SIGKILL)
        while holds("{HANG}"):
            time.sleep(1)
        if holds("{LARGE}") and input_ids.numel() > 20:
            raise torch.OutOfMemoryError("injected: CUDA out of memory")
        result = super().forward(input_ids=input_ids, attention_mask=attention_mask, **others)
        bad = (input_ids == WORDS["{NAN}"]).any(dim=1)
        if result.last_hidden_state.dtype != torch.float32:
            bad |= (input_ids == WORDS["{HALF_NAN}"]).any(dim=1)
        result.last_hidden_state = result.last_hidden_state.masked_fill(
            bad[:, None, None], float("nan")
        )
        return result
"""


@pytest.fixture(scope="session")
def fragile_model(tmp_path_factory, tiny_bert):
    """A copy of the tiny BERT whose class is in the folder."""
    folder = tmp_path_factory.mktemp("models") / "fragile"
    shutil.copytree(tiny_bert, folder)
    vocabulary = AutoTokenizer.from_pretrained(folder).get_vocab()
    words = {word: vocabulary[word] for word in (ABORT, HANG, KILL, HALF_NAN, NAN, LARGE)}
    (folder / "words.json").write_text(json.dumps(words))
    (folder / "fragile_code.py").write_text(CODE.format(folder=str(folder)))
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "fragile_code.Fragile"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


N_ROWS, ROWS_PER_UNIT = 48, 4


def write_corpus(folder, special):
    """Rows d0… of plain words; those of `special` begin with the given text."""
    folder.mkdir()
    words = ["the weather is so", "he is it", "today", "it is the weather today so he"]
    texts = [words[row % len(words)] for row in range(N_ROWS)]
    for row, text in special.items():
        texts[row] = f"{text} {texts[row]}"
    table = pa.table({"id": [f"d{row}" for row in range(N_ROWS)], "text": texts})
    pq.write_table(table, folder / "part-0.parquet", row_group_size=ROWS_PER_UNIT)
    return folder


@pytest.fixture
def fragile_job(make_job, fragile_model, tiny_bert, tmp_path):
    """Builds the job over a corpus with some special texts, and what is to be lost of it."""

    def build(special, lost, dtype="float32"):
        loads(fragile_model).write_text("")
        spec = {
            "inputs": {"path": str(write_corpus(tmp_path / "corpus", special))},
            "models": {"dense": {"model": str(fragile_model), "trust_remote_code": True,
                                 "dtype": dtype}},
            "output": {"path": str(tmp_path / "out")},
            "resources": {"runner": "local", "rows_per_unit": ROWS_PER_UNIT, "cpus_per_actor": 2,
                          "stall_timeout_s": 8},
        }  # fmt: skip
        sound = spec | {
            "models": {"dense": {"model": str(tiny_bert)}},
            "resources": spec["resources"] | {"supervised": False},
        }
        expected = check.clean_run(sound, tmp_path / "clean").with_lost(lost)
        return make_job(spec, expected)

    return build


def loads(model):
    """Beside the folder: what is in it is part of its fingerprint."""
    return model.with_name(f"{model.name}.loads")


def n_loads(model):
    return len(loads(model).read_text().split())


# Of a unit of 4 rows, each death halves what is left. Planning loads the model too, and, as its
# sample holds all texts of so small a corpus, once more without texts.
LOADS_OF_PLANNING = 2
LOADS_OF_A_BISECTION = 2 + 2


@pytest.mark.row(25)
@pytest.mark.parametrize(("word", "reason"), [(ABORT, "crash"), (HANG, "timeout")])
def test_a_text_that_ends_the_process_goes_to_quarantine_alone(
    fragile_job, fragile_model, word, reason
):
    job = fragile_job({21: word}, {"d21": reason})

    done = job.run()

    assert done.returncode == 0, done.stderr
    assert f"1 x {reason}" in done.stdout
    assert n_loads(fragile_model) <= LOADS_OF_PLANNING + LOADS_OF_A_BISECTION
    job.end_check()


@pytest.mark.row(22)
def test_a_text_for_which_the_kernel_kills_the_process_goes_to_quarantine(
    fragile_job, fragile_model
):
    # What the kernel does when memory runs out, seen from outside: SIGKILL.
    job = fragile_job({5: KILL}, {"d5": "crash"})

    done = job.run()

    assert done.returncode == 0, done.stderr
    assert "1 x crash" in done.stdout
    # Each size is tried once more with smaller batches.
    assert n_loads(fragile_model) <= LOADS_OF_PLANNING + 2 * LOADS_OF_A_BISECTION
    job.end_check()


@pytest.mark.row(23)
def test_memory_of_the_accelerator_that_runs_out_costs_no_row_unless_a_text_alone_is_too_large(
    fragile_job, fragile_model
):
    job = fragile_job({3: LARGE, 30: f"{LARGE} " * 45}, {"d30": "out_of_memory"})

    done = job.run()

    assert done.returncode == 0, done.stderr
    assert "1 x out_of_memory" in done.stdout
    assert n_loads(fragile_model) == 2
    job.end_check()


@pytest.mark.row(24)
def test_vectors_that_are_no_numbers_are_computed_once_more_and_then_given_up(fragile_job):
    job = fragile_job({9: HALF_NAN, 33: NAN}, {"d33": "not_finite"}, dtype="bfloat16")

    done = job.run()

    assert done.returncode == 0, done.stderr
    assert "1 x not_finite" in done.stdout
    check.check_files(job.root)
    check.check_log(job.root)
    assert check.quarantined(job.root) == job.expected.quarantined
    ids = check.sorted_rows(job.root).column("id").to_pylist()
    assert ids == job.expected.rows.column("id").to_pylist()


@pytest.mark.row(26)
@pytest.mark.parametrize("runner", ["local", "ray"])
def test_a_model_whose_weights_are_damaged_ends_the_run_with_one_line(
    make_job, values, expected, fault_model, tmp_path, runner
):
    broken = tmp_path / "broken"
    shutil.copytree(fault_model, broken)
    (weights,) = broken.rglob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-40])
    resources = {"runner": runner, "rows_per_unit": 16}
    spec = values | {"models": {"dense": {"model": str(broken)}}, "resources": resources}
    job = make_job(spec, expected)

    refused = job.run()

    assert refused.returncode == 2
    assert str(broken) in refused.stderr
    assert "Traceback" not in refused.stderr
    assert len(job.records()) == 0
    job.spec.write_text(json.dumps(values))
    assert job.run().returncode == 0
    job.values = values
    job.end_check()
