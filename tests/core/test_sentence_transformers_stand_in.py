import pickle
import subprocess
import sys

import stx_core

SCRIPT = """
import importlib.util, stx_core
package = stx_core.as_sentence_transformers()
import sentence_transformers
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder, util
from sentence_transformers.SentenceTransformer import SentenceTransformer as by_older_module
from sentence_transformers.cross_encoder import CrossEncoder as by_module
from sentence_transformers.models import Pooling
from sentence_transformers.util import cos_sim
assert package is sentence_transformers is stx_core.as_sentence_transformers()
assert by_older_module is SentenceTransformer is stx_core.SentenceTransformer
assert by_module is CrossEncoder is stx_core.CrossEncoder
assert cos_sim is util.cos_sim is stx_core.cos_sim
assert importlib.util.find_spec("sentence_transformers") is not None
try:
    from sentence_transformers import losses
except ImportError as error:
    print(error)
"""


def run(script):
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


def test_the_package_gives_the_models_of_stx_and_names_what_is_not_there():
    done = run(SCRIPT)

    assert done.returncode == 0, done.stderr
    assert "cannot import name 'losses' from 'sentence_transformers'" in done.stdout


def test_the_stand_in_is_refused_where_the_package_is_imported_already():
    done = run(
        "import sys, types\n"
        "sys.modules['sentence_transformers'] = types.ModuleType('sentence_transformers')\n"
        "import stx_core\n"
        "stx_core.as_sentence_transformers()"
    )

    assert done.returncode == 1
    assert "sentence_transformers was imported already" in done.stderr


def test_programs_recognise_the_models_by_the_text_of_their_type():
    for name in ("SentenceTransformer", "SparseEncoder", "CrossEncoder"):
        model_class = getattr(stx_core, name)
        assert "sentence_transformers" in str(model_class)
        assert pickle.loads(pickle.dumps(model_class)) is model_class  # noqa: S301  (our own)
