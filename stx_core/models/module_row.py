"""Modules in a row: what a model is, and how it is saved."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

import torch
from torch import nn

from stx_core.errors import ModelError
from stx_core.models.hub import upload
from stx_core.models.loading import save_model
from stx_core.models.model_card import ModelCardData, write_model_card
from stx_core.models.modules.module import (
    Features,
    InputModule,
    Module,
    refuse_to_pickle,
)
from stx_core.models.modules.router import Router

if TYPE_CHECKING:
    from stx_core.models.modules.transformer import Transformer


class ModuleRow(nn.Sequential):
    """Modules in a row; the first one reads texts.

    Attributes:
        module_kwargs: by module name, arguments of `forward` that the folder lists for it.
        model_card_data: what the README of the saved model says.
        model_card_text: the README that the model was loaded with.
        backend: what computes; always "torch".
        prompts: texts to put before inputs, by name.
        default_prompt_name: prompt of calls that name none.
    """

    model_type: ClassVar[str]

    module_kwargs: dict[str, list[str]]
    model_card_data: ModelCardData
    model_card_text: str | None
    backend: str
    prompts: dict[str, str]
    default_prompt_name: str | None

    def forward(self, input: Features, **arguments: Any) -> Features:  # noqa: A002, ANN401
        """Run all modules, each with those of the arguments that it knows."""
        for name, module in self.named_children():
            known = set(getattr(module, "forward_kwargs", ()))
            if not isinstance(module, Module):
                known |= set(self.module_kwargs.get(name, ()))
            mine = arguments.items() if isinstance(module, Router) else ()
            own = {key: value for key, value in arguments.items() if key in known}
            input = module(input, **(dict(mine) | own))
        return input

    # --- What the model is -----------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        tensor = next(self.parameters(), next(self.buffers(), None))
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def _target_device(self) -> torch.device:
        """Older name of `device`, which older clients read and set."""
        return self.device

    @_target_device.setter
    def _target_device(self, device: str | torch.device) -> None:
        self.to(device)

    @property
    def dtype(self) -> torch.dtype | None:
        """Number format of the first weights; None for a model without weights."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), None)

    @property
    def input_module(self) -> InputModule:
        """The first module, which reads texts."""
        first = self[0]
        if not isinstance(first, InputModule):
            raise ModelError(f"the first module, {type(first).__name__}, does not read texts")
        return first

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401  (each kind of input module has another)
        """The tokenizer of the first module."""
        return getattr(self[0], "tokenizer", None)

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:  # noqa: ANN401
        self[0].tokenizer = value

    @property
    def processor(self) -> Any:  # noqa: ANN401
        """What makes inputs of texts: the tokenizer, for models that read nothing else."""
        return getattr(self[0], "processor", self.tokenizer)

    @property
    def transformers_model(self) -> Any:  # noqa: ANN401  (transformers is untyped)
        """The first backbone there is, also behind a router; None for a model without one."""
        backbones = (module.model for module in self.modules() if is_transformer(module))
        found = next(backbones, None)
        return getattr(self[0], "model", None) if found is None else found

    @property
    def config(self) -> Any:  # noqa: ANN401
        """Settings of the backbone, as transformers keeps them; None for a model without one."""
        return getattr(self.transformers_model, "config", None)

    @config.setter
    def config(self, value: Any) -> None:  # noqa: ANN401
        if self.transformers_model is not None:
            self.transformers_model.config = value

    @property
    def max_seq_length(self) -> int | None:
        """Tokens that the model reads of an input, special tokens counted; None: no limit."""
        limit: int | None = getattr(self[0], "max_seq_length", None)
        return limit

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        setattr(self[0], "max_seq_length", value)  # noqa: B010  (of any first module)

    def get_max_seq_length(self) -> int | None:
        """Older name of `max_seq_length`."""
        return self.max_seq_length

    @property
    def modalities(self) -> list[Any]:
        """Kinds of input that the model reads."""
        return list(getattr(self[0], "modalities", ["text"]))

    def supports(self, modality: str | tuple[str, ...]) -> bool:
        """Whether the model reads a kind of input, such as "text"; a tuple: all of them at once."""
        if isinstance(modality, tuple) and modality not in self.modalities:
            return "message" in self.modalities and set(modality) <= set(self.modalities)
        return modality in self.modalities

    def get_backend(self) -> str:
        """What computes: "torch"."""
        return self.backend

    def get_model_kwargs(self) -> list[str]:
        """Further arguments of `encode` or `predict` that this model's modules take: ``task``."""
        listed = {name for names in self.module_kwargs.values() for name in names}
        own = {name for module in self.modules() for name in getattr(module, "forward_kwargs", ())}
        return sorted(listed | own)

    def evaluate(self, evaluator: Callable[..., Any], output_path: str | None = None) -> Any:  # noqa: ANN401
        """What an evaluator gives for this model.

        Args:
            evaluator: called with the model and the folder.
            output_path: folder for its files, made where it is missing; None for none.
        """
        if output_path is not None:
            Path(output_path).mkdir(parents=True, exist_ok=True)
        return evaluator(self, output_path)

    # --- Saving ----------------------------------------------------------------------------------

    def model_config(self) -> dict[str, Any]:
        """Settings of the whole model as they are saved; subclasses add theirs."""
        import transformers

        return {
            "model_type": self.model_type,
            "__version__": {"transformers": transformers.__version__, "pytorch": torch.__version__},
            "prompts": self.prompts,
            "default_prompt_name": self.default_prompt_name,
        }

    def save(
        self,
        path: str | Path | None,
        model_name: str | None = None,
        create_model_card: bool = True,
        train_datasets: list[str] | None = None,
        safe_serialization: bool = True,
    ) -> None:
        """Write the model into a folder that Sentence Transformers 6 can load too.

        Args:
            path: the folder, made where it is missing; None does nothing.
            model_name: name on the hub, for the README.
            create_model_card: write a README: the one it was loaded with, else a short one.
            train_datasets: names of the data sets it was trained on, for the README.
            safe_serialization: only True.

        Raises:
            ValueError: `safe_serialization` is False; pickled weights are never written.
            ModelError: a module is not of a known type, or cannot be saved as it is.
        """
        refuse_to_pickle(safe_serialization)
        if path is None:
            return
        folder = Path(path)
        modules = {name: module for name, module in self.named_children()}
        for module in self.modules():  # what cannot be saved is refused before a file is written
            if isinstance(module, Module):
                module.get_config_dict()
        save_model(folder, modules, self.module_kwargs, self.model_config())
        if create_model_card:
            write_model_card(self, folder, model_name, train_datasets)

    def save_pretrained(
        self,
        path: str | Path | None,
        model_name: str | None = None,
        create_model_card: bool = True,
        train_datasets: list[str] | None = None,
        safe_serialization: bool = True,
    ) -> None:
        """The same as `save`."""
        self.save(
            path,
            model_name=model_name,
            create_model_card=create_model_card,
            train_datasets=train_datasets,
            safe_serialization=safe_serialization,
        )

    def push_to_hub(
        self,
        repo_id: str,
        token: str | None = None,
        private: bool | None = None,
        safe_serialization: bool = True,
        commit_message: str | None = None,
        local_model_path: str | Path | None = None,
        exist_ok: bool = False,
        replace_model_card: bool = False,
        train_datasets: list[str] | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload the model to the Hugging Face hub, into a new repository.

        Args:
            repo_id: name of the repository, with the user or organisation.
            token: access token; None: the one that is stored on this machine.
            private: whether a new repository is private; None: what the organisation has set.
            safe_serialization: only True.
            commit_message: of the commit.
            local_model_path: upload this folder instead of the model.
            exist_ok: the repository may exist.
            replace_model_card: overwrite a README that the repository has.
            train_datasets: names of the data sets it was trained on, for the README.
            revision: branch, made where it is missing.
            create_pr: open a pull request instead.

        Returns:
            Address of the commit, or of the pull request.

        Raises:
            ModelError: the hub refuses, or cannot be reached.
        """
        refuse_to_pickle(safe_serialization)
        return upload(
            self,
            repo_id,
            token=token,
            private=private,
            commit_message=commit_message,
            local_model_path=local_model_path,
            exist_ok=exist_ok,
            replace_model_card=replace_model_card,
            train_datasets=train_datasets,
            revision=revision,
            create_pr=create_pr,
        )

    def save_to_hub(
        self,
        repo_id: str | None = None,
        organization: str | None = None,
        private: bool | None = None,
        commit_message: str = "Add new model.",
        local_model_path: str | Path | None = None,
        exist_ok: bool = False,
        replace_model_card: bool = False,
        train_datasets: list[str] | None = None,
        *,
        token: str | None = None,
        safe_serialization: bool = True,
        repo_name: str | None = None,
    ) -> str:
        """Older form of `push_to_hub`: `repo_name` is `repo_id`, `organization` a part of it."""
        name = repo_id or repo_name
        if name is None:
            raise ValueError("give repo_id: the name of the repository, organisation/name")
        if organization and "/" not in name:
            name = f"{organization}/{name}"
        elif organization and name.split("/")[0] != organization:
            raise ValueError(f"repo_id {name!r} is not of the organization {organization!r}")
        return self.push_to_hub(
            repo_id=name,
            token=token,
            private=private,
            safe_serialization=safe_serialization,
            commit_message=commit_message,
            local_model_path=local_model_path,
            exist_ok=exist_ok,
            replace_model_card=replace_model_card,
            train_datasets=train_datasets,
        )


def is_transformer(module: object) -> "TypeGuard[Transformer]":
    """Whether a module is a `Transformer`; models without one need not load transformers for it."""
    return isinstance(module, Module) and module.is_transformer
