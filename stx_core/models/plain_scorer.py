"""The modules of a plain transformers checkpoint that scores pairs of texts."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stx_core.errors import ModelError
from stx_core.models.folder import read_json
from stx_core.models.messages import MessageFormat, message_format
from stx_core.models.modules.logit_score import LogitScore
from stx_core.models.modules.module import LoadOptions, Module

if TYPE_CHECKING:
    from stx_core.models.modules.transformer import Transformer


def load_plain_scorer(folder: Path, options: LoadOptions) -> list[Module]:
    """Load a sequence classifier, or a causal language model that says "yes" or "no".

    Raises:
        ModelError: the checkpoint is neither, so its scoring head would be untrained.
    """
    architecture = str((read_json(folder / "config.json").get("architectures") or [""])[0])
    if architecture.endswith("ForSequenceClassification"):
        return [_load_backbone(folder, options, "sequence-classification")]
    if architecture.endswith("ForCausalLM"):
        transformer = _load_backbone(folder, options, "text-generation")
        words = ("yes", "no")
        ids = [transformer.tokenizer.convert_tokens_to_ids(word) for word in words]
        for word, token_id in zip(words, ids, strict=True):
            if token_id is None or token_id == transformer.tokenizer.unk_token_id:
                raise ModelError(
                    f"{folder}: {word!r} is not one token of the tokenizer, so a causal checkpoint "
                    "cannot be scored by yes against no; save it with a LogitScore module that "
                    "names its tokens"
                )
        return [transformer, LogitScore(int(ids[0]), int(ids[1]))]
    raise ModelError(
        f"{folder}: the checkpoint is a {architecture or 'model of unknown architecture'}, which "
        "has no trained scoring head; as a CrossEncoder it would give untrained scores. Use a "
        "*ForSequenceClassification checkpoint"
    )


def _load_backbone(folder: Path, options: LoadOptions, task: str) -> "Transformer":
    """The backbone; a tokenizer with a chat template means that it reads messages."""
    from stx_core.models.modules.transformer import Transformer

    transformer = Transformer.from_checkpoint(folder, options, {"transformer_task": task})
    if transformer.tokenizer.chat_template is not None:
        transformer.modality_config["message"] = {
            "method": "forward",
            "method_output_name": "logits",
            "format": content_format(transformer),
        }
    return transformer


def content_format(transformer: "Transformer") -> MessageFormat:
    """Form of the texts in messages: as the model's settings say, or as its template looks."""
    saved: MessageFormat | Literal["auto"]
    saved = transformer.modality_config.get("message", {}).get("format", "auto")
    if saved != "auto":
        return saved
    return message_format(
        transformer.tokenizer.chat_template, transformer.backbone.config.model_type
    )
