"""The way from a dataset to the model that wrote it: a dataset decides nothing about trust."""

import json
from dataclasses import replace

from pydantic import TypeAdapter, ValidationError

from stx.pipelines.models.settings import EncoderSettings
from stx_core.errors import ModelError, StoreError
from stx_core.store.log_state import OutputFacts


def stored_encoder(
    facts: OutputFacts,
    source: str,
    *,
    model: str | None,
    trust_remote_code: bool,
    allow_pickle: bool,
) -> EncoderSettings:
    """Settings of the encoder that wrote an output, as its dataset names them.

    A dataset may come from anyone: it cannot decide what code runs here, nor that pickles are
    loaded. Whatever takes a model from a dataset takes it from here.

    Args:
        facts: what the snapshot says of the output.
        source: the dataset, for errors.
        model: folder of the model, if it is not where the dataset says.
        trust_remote_code: run code of the model's folder, if the output was written that way.
        allow_pickle: load pickled weights, if the output was written that way.

    Raises:
        StoreError: what the dataset says is not the settings of an encoder.
        ModelError: the model runs code of its own, which is not allowed.
    """
    try:
        # Strict: else the text "no" would be a yes or a no, as the library reads it. As JSON:
        # strict Python values would have to be an EncoderSettings already.
        values = json.dumps(facts.get("settings"))
        settings = TypeAdapter(EncoderSettings).validate_json(values, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(["settings", *map(str, problem["loc"])])
        raise StoreError(
            f"{source}: what it says of its model cannot be used: {where}: {problem['msg']}"
        ) from None
    if model is not None:
        settings = replace(settings, model=model, revision=None)
    if settings.trust_remote_code and not trust_remote_code:
        raise ModelError(
            f"{source}: model {settings.model!r} runs code of its own; if you trust it, "
            "pass --trust-remote-code"
        )
    # Not an error: what was written with the permission may never have needed it.
    return replace(settings, allow_pickle=settings.allow_pickle and allow_pickle)
