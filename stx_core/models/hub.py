"""A model goes to the Hugging Face hub."""

import tempfile
from pathlib import Path
from typing import Protocol

from stx_core.errors import ModelError
from stx_core.models.model_card import ModelCardData


class Saved(Protocol):
    """A model that can be written into a folder, with a card."""

    model_card_data: ModelCardData

    def save(
        self,
        path: str | Path | None,
        model_name: str | None = None,
        create_model_card: bool = True,
        train_datasets: list[str] | None = None,
    ) -> None:
        """Write the model, and a card if wanted."""


def upload(
    model: Saved,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    commit_message: str | None = None,
    local_model_path: str | Path | None = None,
    exist_ok: bool = False,
    replace_model_card: bool = False,
    train_datasets: list[str] | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Create a repository, and upload the model or a folder; arguments as in `push_to_hub`.

    Raises:
        ModelError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=exist_ok or create_pr).repo_id
        model.model_card_data.set_model_id(repo_id)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            if local_model_path is None:
                card = replace_model_card or not api.file_exists(
                    repo_id, "README.md", revision=revision
                )
                model.save(
                    temporary,
                    model_name=repo_id,
                    create_model_card=card,
                    train_datasets=train_datasets,
                )
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=local_model_path or temporary,
                commit_message=commit_message or f"Add new {type(model).__name__} model",
                revision=revision,
                create_pr=create_pr,
            )
    except (HfHubHTTPError, HFValidationError, ConnectionError) as error:
        raise ModelError(f"the hub did not take {repo_id!r}: {error}") from error
    return str(commit.pr_url if create_pr else commit.commit_url)
