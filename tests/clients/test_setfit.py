"""SetFit trains with Sentence Transformers itself, so it runs without the stand-in."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = """
import sys
from setfit import SetFitModel
from sklearn.linear_model import LogisticRegression
from stx_core import SentenceTransformer

folder, saved = sys.argv[1:]
texts, labels = ["sun", "moon", "sun sun", "moon moon"], [1, 0, 1, 0]
body = SentenceTransformer(folder, device="cpu")
model = SetFitModel(model_body=body, model_head=LogisticRegression())
model.model_head.fit(body.encode(texts), labels)
assert model.predict(texts).tolist() == labels
model.save_pretrained(saved)
assert (SentenceTransformer(saved, device="cpu").encode(texts) == body.encode(texts)).all()
"""


def test_setfit_predicts_with_a_model_and_saves_it(save_static_model, tmp_path):
    # Not importorskip: in this process the stand-in is at work.
    if importlib.util.find_spec("setfit") is None:
        pytest.skip("setfit is not installed")
    weights = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    folder = save_static_model(tmp_path / "model", ["sun", "moon"], weights)

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder, tmp_path / "saved"], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
