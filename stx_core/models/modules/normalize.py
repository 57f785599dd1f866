"""Normalisation to unit length."""

from pathlib import Path
from typing import Any, ClassVar

from torch.nn.functional import normalize

from stx_core.models.folder import read_json
from stx_core.models.modules.module import Features, Module


class Normalize(Module):
    """Divides embeddings by their L2 norm; a zero vector stays zero.

    Args:
        module_input_name: feature to read, (..., D).
        module_output_name: feature to write; default: the one that was read.
    """

    config_keys: ClassVar[tuple[str, ...]] = ("module_input_name", "module_output_name")

    def __init__(
        self, module_input_name: str = "sentence_embedding", module_output_name: str | None = None
    ) -> None:
        super().__init__()
        self.module_input_name = module_input_name
        self.module_output_name = module_output_name or module_input_name

    @classmethod
    def read_config(cls, folder: Path) -> dict[str, Any]:
        """Settings; before 6.0 there were none, and git does not keep an empty folder."""
        path = folder / cls.config_file_name
        config = read_json(path) if path.is_file() else {}
        return {key: value for key, value in config.items() if key in cls.config_keys}

    def forward(self, features: Features) -> Features:
        """Normalise over the last axis; torch's epsilon of 1e-12 keeps zero vectors zero."""
        value = features[self.module_input_name]
        features[self.module_output_name] = normalize(value, p=2, dim=-1)
        return features
