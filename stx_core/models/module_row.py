"""Modules in a row: what a model is, and how it is saved."""

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

import torch
from torch import nn

from stx_core.errors import ModelError
from stx_core.models.alias import Alias
from stx_core.models.loading import save_model
from stx_core.models.model_card import README, ModelCardData, model_card
from stx_core.models.modules.module import (
    Features,
    InputModule,
    Module,
    refuse_to_pickle,
)
from stx_core.models.modules.router import Router
from stx_core.models.options import ConfigKey, ModelSettings

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
    config_keys: ClassVar[tuple[ConfigKey, ...]] = ()
    """Attributes that are saved as settings of the whole model, unless they are None."""

    module_kwargs: dict[str, list[str]]
    model_card_data: ModelCardData
    model_card_text: str | None
    backend: str
    prompts: dict[str, str]
    default_prompt_name: str | None

    def forward(self, input: Features, **arguments: Any) -> Features:  # noqa: A002, ANN401
        """Run all modules, each with those of the arguments that it knows."""
        for name, module in self.named_children():
            accepted = set(getattr(module, "forward_kwargs", ()))
            if not isinstance(module, Module):
                accepted |= set(self.module_kwargs.get(name, ()))
            if isinstance(module, Router):  # it gives them on to its modules
                accepted |= set(arguments)
            own = {key: value for key, value in arguments.items() if key in accepted}
            input = module(input, **own)
        return input

    # --- What the model is -----------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
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
    def first_module(self) -> nn.Module:
        """The first module, whatever it is."""
        return self[0]

    tokenizer = Alias[Any]("first_module.tokenizer", settable=True, optional=True)
    """The tokenizer of the first module: each kind of input module has another."""

    max_seq_length = Alias[int | None]("first_module.max_seq_length", settable=True, optional=True)
    """Tokens that the model reads of an input, special tokens counted; None: no limit."""

    @property
    def processor(self) -> Any:  # noqa: ANN401
        """Maker of inputs out of texts: the tokenizer, for models that read nothing else."""
        return getattr(self[0], "processor", self.tokenizer)

    @property
    def transformers_model(self) -> Any:  # noqa: ANN401  (transformers is untyped)
        """The first backbone there is, also behind a router; None for a model without one."""
        backbones = (module.model for module in self.modules() if is_transformer(module))
        backbone = next(backbones, None)
        return getattr(self[0], "model", None) if backbone is None else backbone

    @property
    def config(self) -> Any:  # noqa: ANN401
        """Settings of the backbone, as transformers keeps them; None for a model without one."""
        return getattr(self.transformers_model, "config", None)

    @config.setter
    def config(self, value: Any) -> None:  # noqa: ANN401
        if self.transformers_model is not None:
            self.transformers_model.config = value

    def get_max_seq_length(self) -> int | None:
        """Older name of `max_seq_length`."""
        return self.max_seq_length

    @property
    def modalities(self) -> list[Any]:
        """Kinds of input that the model reads."""
        return list(getattr(self[0], "modalities", ["text"]))

    def supports(self, modality: str | tuple[str, ...]) -> bool:
        """True where the model reads a kind of input, "text"; a tuple: all of them at once."""
        if isinstance(modality, tuple) and modality not in self.modalities:
            return "message" in self.modalities and set(modality) <= set(self.modalities)
        return modality in self.modalities

    def get_backend(self) -> str:
        """Library that computes: "torch"."""
        return self.backend

    def get_model_kwargs(self) -> list[str]:
        """Further arguments of `encode` or `predict` that this model's modules take: ``task``."""
        listed = {name for names in self.module_kwargs.values() for name in names}
        own = {name for module in self.modules() for name in getattr(module, "forward_kwargs", ())}
        return sorted(listed | own)

    def check_arguments(self, method: str, names: Collection[str]) -> None:
        """Check further arguments of a call.

        Raises:
            ValueError: no module of this model takes them.
        """
        if names and (unknown := set(names).difference(self.get_model_kwargs())):
            raise ValueError(
                f"{method} does not know {sorted(unknown)}; modules of this model take "
                f"{self.get_model_kwargs() or 'no further arguments'}"
            )

    def evaluate(self, evaluator: Callable[..., Any], output_path: str | None = None) -> Any:  # noqa: ANN401
        """Result of an evaluator for this model.

        Args:
            evaluator: called with the model and the folder.
            output_path: folder for its files, made where it is missing; None for none.
        """
        if output_path is not None:
            Path(output_path).mkdir(parents=True, exist_ok=True)
        return evaluator(self, output_path)

    # --- Saving ----------------------------------------------------------------------------------

    def model_config(self) -> ModelSettings:
        """Settings of the whole model as they are saved, with those of `config_keys`."""
        import transformers

        config: ModelSettings = {
            "model_type": self.model_type,
            "__version__": {"transformers": transformers.__version__, "pytorch": torch.__version__},
            "prompts": self.prompts,
            "default_prompt_name": self.default_prompt_name,
        }
        for key in self.config_keys:
            if (value := getattr(self, key)) is not None:
                config[key] = value
        return config

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
        save_model(folder, modules, self.module_kwargs, config=self.model_config())
        if create_model_card:
            card = self.model_card_text
            if card is None:
                card = model_card(
                    self.model_card_data,
                    model_type=self.model_type,
                    modules=modules,
                    max_seq_length=self.max_seq_length,
                    model_name=model_name,
                    train_datasets=train_datasets or [],
                )
            (folder / README).write_text(card, encoding="utf-8")

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
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        refuse_to_pickle(safe_serialization)
        api = HfApi(token=token)
        try:
            created = api.create_repo(repo_id, private=private, exist_ok=exist_ok or create_pr)
            repo_id = created.repo_id
            self.model_card_data.set_model_id(repo_id)
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            with tempfile.TemporaryDirectory() as temporary:
                if local_model_path is None:
                    self.save(
                        temporary,
                        model_name=repo_id,
                        create_model_card=replace_model_card
                        or not api.file_exists(repo_id, "README.md", revision=revision),
                        train_datasets=train_datasets,
                    )
                commit = api.upload_folder(
                    repo_id=repo_id,
                    folder_path=local_model_path or temporary,
                    commit_message=commit_message or f"Add new {type(self).__name__} model",
                    revision=revision,
                    create_pr=create_pr,
                )
        except (HfHubHTTPError, HFValidationError, ConnectionError) as error:
            raise ModelError(f"the hub did not take {repo_id!r}: {error}") from error
        return str(commit.pr_url if create_pr else commit.commit_url)

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
    """True for a `Transformer`; models without one need not load transformers for it."""
    return isinstance(module, Module) and module.is_transformer
