"""Base of dense, sparse and cross-encoder models: a folder becomes modules, with prompts."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from stx_core.errors import ModelError
from stx_core.models.backends import check_backend
from stx_core.models.batch_model import BatchModel
from stx_core.models.contents import MODULES
from stx_core.models.device import as_device, default_device
from stx_core.models.folder import is_within, reading, resolve_folder
from stx_core.models.loading import load_modules, read_model_config
from stx_core.models.model_card import README, ModelCardData
from stx_core.models.modules.module import LoadOptions
from stx_core.models.options import ModelSettings
from stx_core.models.prompts import choose_prompts

logger = logging.getLogger(__name__)


class TextModel(BatchModel):
    """A model of a folder, of a name on the hub, or of given modules; with prompts.

    Args:
        model_name_or_path: a local folder, or a name on the hub. A folder without ``modules.json``
            is a plain transformers checkpoint and gets the modules of `default_modules`.
        modules: modules of a model without a folder; beside a name they are left out of account.
        device: where to compute; default: `default_device`.
        prompts: texts to put before inputs, by name. They override saved ones name by name.
        default_prompt_name: prompt to use when a call names none.
        cache_folder: where downloads are kept.
        trust_remote_code: let transformers run code of the folder for the backbone. Code for
            modules is never run.
        revision: branch, tag or commit on the hub.
        local_files_only: never use the network.
        token: access token of the hub.
        model_kwargs: arguments of the backbone, such as ``dtype``. Without one, the backbone has
            the dtype that its checkpoint was saved in; later modules follow it.
        processor_kwargs: arguments of the tokenizer.
        tokenizer_kwargs: older name of `processor_kwargs`.
        config_kwargs: overrides of the backbone's config.
        allow_pickle: load ``.bin`` weights, with an unpickler that only builds tensors.
        use_auth_token: older name of `token`.
        model_card_data: what the README of the saved model says.
        backend: only "torch".

    Raises:
        ModelError: the folder cannot be loaded, or would not compute what it was trained for.
    """

    default_huggingface_organization: ClassVar[str]
    default_prompts: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        modules: Sequence[nn.Module] | Mapping[str, nn.Module] | None = None,
        device: str | torch.device | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        allow_pickle: bool = False,
        use_auth_token: str | bool | None = None,
        model_card_data: ModelCardData | None = None,
        backend: str = "torch",
    ) -> None:
        super().__init__()
        named = model_name_or_path not in (None, "")
        if not named and modules is None:
            raise ValueError("give either model_name_or_path or modules")
        if named and modules is not None:
            logger.warning("modules come from %s, those given are not used", model_name_or_path)
        if processor_kwargs is not None and tokenizer_kwargs is not None:
            raise ValueError("tokenizer_kwargs is the older name of processor_kwargs: give one")
        if token is not None and use_auth_token is not None:
            raise ValueError("use_auth_token is the older name of token: give one")
        check_backend(backend)
        self.backend = backend
        self.trust_remote_code = trust_remote_code
        self.model_card_data = model_card_data or ModelCardData(local_files_only=local_files_only)
        self.model_card_text: str | None = None
        self.saved_config = ModelSettings()
        self.module_kwargs: dict[str, list[str]] = {}
        if model_name_or_path not in (None, ""):
            options = LoadOptions(
                model_kwargs=dict(model_kwargs or {}),
                processor_kwargs=dict(processor_kwargs or tokenizer_kwargs or {}),
                config_kwargs=dict(config_kwargs or {}),
                trust_remote_code=trust_remote_code,
                allow_pickle=allow_pickle,
                cache_folder=cache_folder,
                local_files_only=local_files_only,
                token=use_auth_token if token is None else token,
            )
            modules = self._load(model_name_or_path, revision, options)
        self._add_modules(modules or {})
        if "device_map" not in (model_kwargs or {}):
            self.to(as_device(device or default_device()))
        self.prompts, self.default_prompt_name = choose_prompts(
            self.default_prompts, self.saved_config, prompts, default_name=default_prompt_name
        )
        self.model_card_data.register_model(self)
        self.eval()

    def _load(
        self, name_or_path: str | Path, revision: str | None, options: LoadOptions
    ) -> Sequence[nn.Module] | Mapping[str, nn.Module]:
        folder = resolve_folder(
            name_or_path,
            default_org=self.default_huggingface_organization,
            revision=revision,
            token=options.token,
            cache_folder=options.cache_folder,
            local_files_only=options.local_files_only,
            allow_pickle=options.allow_pickle,
        )
        if not Path(name_or_path).expanduser().is_dir():
            self.model_card_data.set_base_model(str(name_or_path), revision)
        with reading(folder, "this model cannot be loaded"):
            options = options.within(folder)
            self.saved_config = read_model_config(folder, self.model_type)
            if not (folder / MODULES).is_file():
                return self.default_modules(folder, options)
            modules, self.module_kwargs = load_modules(folder, options)
            card = folder / README
            if is_within(card, folder):
                with suppress(OSError, UnicodeDecodeError):  # there is none, or it is no text
                    self.model_card_text = card.read_text(encoding="utf-8")
        return modules

    @classmethod
    def default_modules(cls, folder: Path, options: LoadOptions) -> Sequence[nn.Module]:
        """Modules for a plain transformers checkpoint.

        Raises:
            ModelError: the checkpoint lacks weights that this type of model needs.
        """
        raise ModelError(f"{folder} has no {MODULES}, and {cls.__name__} has no default modules")

    def _add_modules(self, modules: Sequence[nn.Module] | Mapping[str, nn.Module]) -> None:
        by_name = modules if isinstance(modules, Mapping) else dict(enumerate(modules))
        if not by_name:
            raise ValueError(f"{type(self).__name__} needs at least one module, got none")
        for name, module in by_name.items():
            self.add_module(str(name), module)
        first = self[0]
        if not any(hasattr(first, name) for name in ("to_tokens", "preprocess", "tokenize")):
            raise ModelError(
                f"the first module must read texts (preprocess or tokenize), "
                f"{type(first).__name__} does not"
            )
        weight = next(first.parameters(), None)
        if weight is not None and weight.is_floating_point():
            for module in list(self)[1:]:  # a half-precision backbone gets half-precision heads
                module.to(weight.dtype)

    # --- Prompts ---------------------------------------------------------------------------------

    def resolve_prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        """The text to put before inputs: `prompt`, else by name, else the default prompt, else "".

        Raises:
            ValueError: there is no prompt of that name.
        """
        if prompt is not None:
            if prompt_name is not None:
                logger.warning("both prompt and prompt_name %r are given: prompt wins", prompt_name)
            return prompt
        name = self.default_prompt_name if prompt_name is None else prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            raise ValueError(
                f"prompt_name {name!r} is not a prompt; there are {list(self.prompts)}"
            )
        return self.prompts[name]

    def prompt_name_for(self, task: str, prompt: str | None, prompt_name: str | None) -> str | None:
        """Name of the prompt for "query" or "document": the caller's, else that of the task.

        Both names always exist in dense and sparse models, if only as "". So the default prompt is
        never used here, and a model that only has a "passage" prompt gets none. The reference does
        the same.
        """
        if prompt is not None or prompt_name is not None:
            return prompt_name
        names = ("query",) if task == "query" else ("document", "passage", "corpus")
        return next((name for name in names if name in self.prompts), None)
