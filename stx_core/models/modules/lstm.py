"""An LSTM over the token embeddings."""

from typing import ClassVar

from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from stx_core.models.alias import Alias
from stx_core.models.modules.module import Features, Module
from stx_core.models.older_names import older_names


class LSTM(Module):
    """Reads the token embeddings one after the other, in both directions by default.

    Args:
        embedding_dimension: width of the incoming token embeddings.
        hidden_dim: width of the outgoing ones, per direction.
        num_layers: layers on top of each other.
        dropout: between layers, in training.
        bidirectional: also read backwards.
    """

    config_file_name: ClassVar[str] = "lstm_config.json"
    config_keys: ClassVar[tuple[str, ...]] = (
        "embedding_dimension",
        "hidden_dim",
        "num_layers",
        "dropout",
        "bidirectional",
    )
    # The name before 5.4.
    config_key_renames: ClassVar[dict[str, str]] = {
        "word_embedding_dimension": "embedding_dimension"
    }

    @older_names(word_embedding_dimension="embedding_dimension")
    def __init__(
        self,
        embedding_dimension: int,
        hidden_dim: int,
        num_layers: int = 1,
        dropout: float = 0,
        bidirectional: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = nn.LSTM(
            embedding_dimension,
            hidden_dim,
            num_layers,
            dropout=dropout,
            bidirectional=bidirectional,
            batch_first=True,
        )

    embedding_dimension = Alias[int]("encoder.input_size")
    """Width of the incoming token embeddings."""

    hidden_dim = Alias[int]("encoder.hidden_size")
    """Width of the outgoing ones, per direction."""

    num_layers = Alias[int]("encoder.num_layers")
    """Layers on top of each other."""

    bidirectional = Alias[bool]("encoder.bidirectional")
    """True where it also reads backwards."""

    dropout = Alias[float]("encoder.dropout", settable=True)
    """Between layers, in training."""

    def get_embedding_dimension(self) -> int:
        """Width of the outgoing token embeddings."""
        return self.hidden_dim * (2 if self.bidirectional else 1)

    def forward(self, features: Features) -> Features:
        """Replace ``token_embeddings``: (B, L, D) to (B, L, hidden x directions)."""
        mask = features["attention_mask"]
        # torch packs no empty sequence: a text without tokens reads one masked position.
        lengths = mask.sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(
            features["token_embeddings"], lengths, batch_first=True, enforce_sorted=False
        )
        output, _ = self.encoder(packed)
        features["token_embeddings"], _ = pad_packed_sequence(
            output, batch_first=True, total_length=mask.shape[1]
        )
        return features
