import torch

from stx_core.models.modules.logit_score import LogitScore
from stx_core.models.modules.module import LoadOptions

LOGITS = torch.tensor([[0.0, 3.0, 1.0], [5.0, 2.0, -4.0]])


def test_the_score_is_how_much_higher_the_true_logit_is():
    features = LogitScore(true_token_id=1, false_token_id=2)({"causal_logits": LOGITS})

    assert features["scores"].tolist() == [[2.0], [6.0]]


def test_without_a_false_token_the_score_is_the_true_logit():
    features = LogitScore(true_token_id=2)({"causal_logits": LOGITS})

    assert features["scores"].tolist() == [[1.0], [-4.0]]


def test_settings_come_back_from_the_folder(tmp_path):
    LogitScore(true_token_id=1, false_token_id=2, module_input_name="logits").save(tmp_path)

    loaded = LogitScore.from_folder(tmp_path, LoadOptions())

    assert loaded({"logits": LOGITS})["scores"].tolist() == [[2.0], [6.0]]
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
