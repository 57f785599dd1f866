"""Libraries that compute a model: torch, and nothing else yet."""

from stx_core.choices import check_choice
from stx_core.errors import ModelError

_BACKENDS = ("torch", "onnx", "openvino")


def check_backend(backend: str) -> None:
    """Refuse backends that there are not.

    Raises:
        ValueError: there is no such backend.
        ModelError: there is, but not here.
    """
    check_choice("backend", backend, _BACKENDS)
    if backend != "torch":
        raise ModelError(
            f"backend {backend!r} is not built in: leave it out, torch runs models packed, and as "
            "fast as the machine's bfloat16 units allow with model_kwargs={'dtype': 'bfloat16'}"
        )
