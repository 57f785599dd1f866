"""The score of a causal reranker: how much rather it would say "yes" than "no"."""

from typing import ClassVar

from stx_core.models.modules.module import Features, Module


class LogitScore(Module):
    """Turns the next-token logits of a causal language model into one relevance score.

    Args:
        true_token_id: vocabulary id of the word for "relevant".
        false_token_id: vocabulary id of the word for "not relevant"; its logit is subtracted. None:
            the score is the logit of `true_token_id` alone.
        module_input_name: features key of the logits, (B, V) float, last position only.
    """

    config_keys: ClassVar[tuple[str, ...]] = (
        "true_token_id",
        "false_token_id",
        "module_input_name",
    )

    def __init__(
        self,
        true_token_id: int,
        false_token_id: int | None = None,
        module_input_name: str = "causal_logits",
    ) -> None:
        super().__init__()
        self.true_token_id = true_token_id
        self.false_token_id = false_token_id
        self.module_input_name = module_input_name

    def forward(self, features: Features) -> Features:
        """Add ``scores``, (B, 1), in the type of the logits."""
        logits = features[self.module_input_name]
        score = logits[:, self.true_token_id]
        if self.false_token_id is not None:
            score = score - logits[:, self.false_token_id]
        features["scores"] = score.unsqueeze(1)
        return features
